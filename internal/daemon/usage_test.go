package daemon

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/unkeyed/unkey/go/deploy/metald/internal/api"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/config"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/metering/ledger"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/metering/record"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/metering/usage"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/metering/wal"
)

// An export is the same whether a metald runs, and is asked, or not.
func TestExportUsageBesideAMetaldThatRuns(t *testing.T) {
	cfg := config.Config{StateDir: t.TempDir(), Address: "127.0.0.1", WALRetention: time.Hour}
	export := func() (string, string, error) {
		var out, sum bytes.Buffer
		err := ExportUsage(t.Context(), cfg, "csv", time.Time{}, time.Time{}, &out, &sum)
		return out.String(), sum.String(), err
	}
	if _, _, err := export(); err == nil || !strings.Contains(err.Error(), "there is no ledger") {
		t.Errorf("an empty directory: %v", err)
	}
	stop := running(t, &cfg)
	out, sum, err := export()
	if err != nil || strings.Count(out, "\n") != 3 || !strings.Contains(out, ",acme,web,") {
		t.Errorf("of a metald that runs: %s, %v", out, err)
	}
	var audit bytes.Buffer
	if err := AuditUsage(t.Context(), cfg, &audit); err != nil || !strings.Contains(audit.String(), " 0 differences") {
		t.Errorf("its audit: %s, %v", audit.String(), err)
	}
	stop()
	if still, stillSum, err := export(); err != nil || still != out || stillSum != sum {
		t.Errorf("once it has stopped: %s%s, %v\nbefore: %s%s", still, stillSum, err, out, sum)
	}
	lock, err := openStateDir(cfg.StateDir)
	if err != nil {
		t.Fatal(err)
	}
	defer lock.Close()
	if _, _, err := export(); err == nil || !strings.Contains(err.Error(), "does not answer") {
		t.Errorf("of a metald that is not where the settings say: %v", err)
	}
}

// running is as much of a metald as an export needs, in the directory of cfg. It sets cfg's port.
func running(t *testing.T, cfg *config.Config) (stop func()) {
	t.Helper()
	lock, err := openStateDir(cfg.StateDir)
	must(t, err)
	log, err := wal.Open(logDir(*cfg), wal.Options{})
	must(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	logged, served := make(chan error, 1), make(chan error, 1)
	go func() { logged <- log.Run(ctx) }()
	meter(t, log)
	l, err := ledger.Open(ctx, ledger.Config{Path: ledgerPath(*cfg), Log: log})
	must(t, err)
	front, err := api.New(api.Config{Ledger: l, Log: slog.New(slog.DiscardHandler)})
	must(t, err)
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	cfg.Port = ln.Addr().(*net.TCPAddr).Port
	go func() { served <- front.Run(ctx, ln) }()
	return func() {
		cancel()
		must(t, errors.Join(<-served, <-logged, l.Close(), log.Close(), lock.Close()))
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// meter writes two hours and a half of a VM.
func meter(t *testing.T, log *wal.Log) {
	t.Helper()
	var enc record.Encoder
	var last uint64
	put := func(typ byte, body []byte) {
		seq, err := log.Append(wal.Record{Type: typ, Keyframe: typ == record.TypeKeyframe, Body: body})
		must(t, err)
		last = seq
	}
	at := usage.Time{Mono: 1, Wall: time.Date(2026, 11, 24, 12, 0, 0, 0, time.UTC).UnixNano()}
	put(record.TypeKeyframe, enc.Keyframe(nil, at))
	put(record.TypeBegin, enc.Begin(nil, usage.Life{Incarnation: usage.Incarnation{Host: "h", VM: "web", Epoch: 1}, Customer: "acme", Start: at, State: usage.Running}))
	for range 15 {
		at.Mono, at.Wall = at.Mono+int64(10*time.Minute), at.Wall+int64(10*time.Minute)
		put(record.TypeTick, enc.Tick(nil, at, 0, []record.Line{{Epoch: 1, Reading: usage.Reading{}.With(usage.CPU, uint64(at.Mono))}}))
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	must(t, log.Wait(ctx, last))
}
