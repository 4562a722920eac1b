// Package export writes the ledger's rows for those who make bills of them: as CSV or as JSON lines, with a checksum.
// The same ledger gives the same bytes.
package export

import (
	"bufio"
	"context"
	"crypto/sha256"
	"encoding/csv"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"strconv"
	"time"

	"github.com/unkeyed/unkey/go/deploy/metald/internal/billing/store"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/metering/usage"
)

// Formats that Write knows.
const (
	CSV   = "csv"
	JSONL = "jsonl"
)

// Rows is where rows come from; *store.Store has it.
type Rows interface {
	Hours(ctx context.Context, from, to int64, f func(store.HourRow) error) error
}

// Write writes the rows of [from, to), in unix seconds, and returns the SHA-256 of what it wrote, in hexadecimal. An
// unknown quantity is an empty field of CSV, and null in JSON; numbers of JSON are texts, because they may have 128 bits.
func Write(ctx context.Context, w io.Writer, rows Rows, format string, from, to int64) (string, error) {
	sum := sha256.New()
	out := bufio.NewWriter(io.MultiWriter(w, sum))
	var write func([]string) error
	switch format {
	case CSV:
		c := csv.NewWriter(out)
		write = func(values []string) error { _ = c.Write(values); c.Flush(); return c.Error() }
		if err := write(names()); err != nil {
			return "", err
		}
	case JSONL:
		write = func(values []string) error { return writeJSON(out, values) }
	default:
		return "", fmt.Errorf("format %q is neither %s nor %s", format, CSV, JSONL)
	}
	if err := rows.Hours(ctx, from, to, func(r store.HourRow) error { return write(fields(r)) }); err != nil {
		return "", err
	}
	if err := out.Flush(); err != nil {
		return "", err
	}
	return hex.EncodeToString(sum.Sum(nil)), nil
}

func names() []string {
	list := []string{"hour", "tenant_id", "vm_id", "host_id", "epoch", "boot_id", "start_ticks", "by_timestamps"}
	for q := range usage.Quantity(usage.Quantities) {
		list = append(list, q.String())
	}
	return append(list, "incomplete")
}

// fields are the values of names; "" for what is not known.
func fields(r store.HourRow) []string {
	i := r.Incarnation
	list := []string{
		time.Unix(r.Hour, 0).UTC().Format(time.RFC3339), r.Customer, i.VM, i.Host,
		strconv.FormatUint(i.Epoch, 10), i.Boot, strconv.FormatUint(i.StartTicks, 10), strconv.FormatBool(r.ByTimestamps),
	}
	for q := range usage.Quantity(usage.Quantities) {
		text := ""
		if v, ok := r.Amount.Known(q); ok {
			text = v.String()
		}
		list = append(list, text)
	}
	return append(list, r.Amount.Incomplete.String())
}

// quantitiesAt is where quantities begin in names.
const quantitiesAt = 8

func writeJSON(w *bufio.Writer, values []string) error {
	for i, name := range names() {
		text, err := json.Marshal(values[i])
		if err != nil {
			return err
		}
		if values[i] == "" && i >= quantitiesAt && i < quantitiesAt+usage.Quantities {
			text = []byte("null")
		}
		lead := `,"`
		if i == 0 {
			lead = `{"`
		}
		fmt.Fprintf(w, `%s%s":%s`, lead, name, text)
	}
	_, err := w.WriteString("}\n")
	return err
}
