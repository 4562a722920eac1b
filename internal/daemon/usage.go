package daemon

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/unkeyed/unkey/go/deploy/metald/internal/config"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/metering/ledger"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/metering/wal"
)

// ledgerPath is the file of the ledger.
func ledgerPath(cfg config.Config) string { return filepath.Join(cfg.StateDir, "usage.db") }

// logDir is the directory of the write-ahead log of usage.
func logDir(cfg config.Config) string { return filepath.Join(cfg.StateDir, "usage.wal") }

// ExportUsage writes the ledger's rows of complete hours in [from, to) to out, and their SHA-256 to sum. Zero times
// are the beginning, and the end of what is complete. A metald that runs is asked; else the ledger is opened.
func ExportUsage(ctx context.Context, cfg config.Config, format string, from, to time.Time, out, sum io.Writer) error {
	var digest string
	err := withLedger(ctx, cfg, func(l *ledger.Ledger) (err error) {
		digest, err = l.Export(ctx, out, format, from, to)
		return err
	})
	if errors.As(err, new(inUseError)) {
		digest, err = askExport(ctx, cfg, format, from, to, out)
	}
	if err == nil {
		_, err = fmt.Fprintln(sum, "sha256", digest)
	}
	return err
}

// ErrAudit is for a ledger that is not what its log comes to.
var ErrAudit = errors.New("the ledger is not what its log comes to")

// AuditUsage compares the ledger with what the log of usage comes to when it is read again, where it still has every
// tick. What it finds goes to out.
func AuditUsage(ctx context.Context, cfg config.Config, out io.Writer) error {
	var audit ledger.Audit
	err := withLedger(ctx, cfg, func(l *ledger.Ledger) (err error) {
		audit, err = l.Audit(ctx)
		return err
	})
	if errors.As(err, new(inUseError)) {
		err = askRunning(ctx, cfg, "/usage/audit", nil, func(r *http.Response) error { return json.NewDecoder(r.Body).Decode(&audit) })
	}
	if err != nil {
		return err
	}
	from := "the beginning"
	if !audit.From.IsZero() {
		from = audit.From.Format(time.RFC3339)
	}
	fmt.Fprintf(out, "records %d to %d: %d incarnations, %d hours from %s on; %d differences\n",
		audit.First, audit.Last, audit.Incarnations, audit.Rows, from, len(audit.Different))
	for _, d := range audit.Different {
		fmt.Fprintln(out, d)
	}
	if len(audit.Different) > 0 {
		return ErrAudit
	}
	return nil
}

// withLedger opens the ledger of a metald that does not run, brings it to the end of its log, and closes it after f.
func withLedger(ctx context.Context, cfg config.Config, f func(*ledger.Ledger) error) error {
	if _, err := os.Stat(ledgerPath(cfg)); err != nil {
		return fmt.Errorf("%s: there is no ledger: %w", config.EnvName("state-dir"), err)
	}
	state, err := openStateDir(cfg.StateDir)
	if err != nil {
		return err
	}
	defer state.Close()
	log, err := wal.Open(logDir(cfg), wal.Options{})
	if err != nil {
		return err
	}
	defer log.Close()
	l, err := ledger.Open(ctx, ledger.Config{Path: ledgerPath(cfg), Log: log, Retention: cfg.WALRetention})
	if err != nil {
		return err
	}
	return errors.Join(f(l), l.Close())
}

// askExport has a metald that runs write the rows.
func askExport(ctx context.Context, cfg config.Config, format string, from, to time.Time, out io.Writer) (string, error) {
	query := url.Values{"format": {format}}
	for name, t := range map[string]time.Time{"from": from, "to": to} {
		if !t.IsZero() {
			query.Set(name, t.Format(time.RFC3339))
		}
	}
	digest := sha256.New()
	err := askRunning(ctx, cfg, "/usage/export", query, func(r *http.Response) error {
		if _, err := io.Copy(io.MultiWriter(out, digest), r.Body); err != nil {
			return err
		}
		if got := hex.EncodeToString(digest.Sum(nil)); got != r.Trailer.Get("Usage-Sha256") {
			return fmt.Errorf("what came has the SHA-256 %s, and metald sent %q: it is not whole", got, r.Trailer.Get("Usage-Sha256"))
		}
		return nil
	})
	return hex.EncodeToString(digest.Sum(nil)), err
}

// askRunning asks the metald that has the state directory, at the address that the settings say.
func askRunning(ctx context.Context, cfg config.Config, path string, query url.Values, read func(*http.Response) error) error {
	at := url.URL{Scheme: "http", Host: net.JoinHostPort(cfg.Address, strconv.Itoa(cfg.Port)), Path: path, RawQuery: query.Encode()}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, at.String(), nil)
	if err != nil {
		return err
	}
	client := &http.Client{Transport: &http.Transport{}}
	defer client.CloseIdleConnections()
	resp, err := client.Do(req)
	if err != nil {
		return fmt.Errorf("a metald runs on %s, and does not answer at %s; give the settings that it has: %w", cfg.StateDir, at.Host, err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		text, _ := io.ReadAll(io.LimitReader(resp.Body, 4<<10))
		return fmt.Errorf("metald at %s: %s", at.Host, strings.TrimSpace(string(text)))
	}
	return read(resp)
}
