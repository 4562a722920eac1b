// Package export writes the rows of a ledger for those who make bills of them: as CSV or as JSON lines, with a checksum.
// metald and billaged write the same columns, and the same rows give the same bytes.
package export

import (
	"bufio"
	"crypto/sha256"
	"encoding/csv"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"strconv"
	"time"

	"github.com/unkeyed/unkey/go/deploy/metald/internal/metering/usage"
)

// Formats that Write knows.
const (
	CSV   = "csv"
	JSONL = "jsonl"
)

// Row is what was used by an incarnation in an hour.
type Row struct {
	Incarnation  usage.Incarnation
	Customer     string
	Hour         int64 // unix seconds
	ByTimestamps bool  // it was reported by a client without sequence numbers
	Amount       usage.Amount
}

// Known says whether format is one that Write knows.
func Known(format string) error {
	if format != CSV && format != JSONL {
		return fmt.Errorf("format %q is neither %s nor %s", format, CSV, JSONL)
	}
	return nil
}

// Write writes the rows that each gives, in their order, and returns the SHA-256 of what it wrote, in hexadecimal. An
// unknown quantity is an empty field of CSV, and null in JSON; numbers of JSON are texts, because they may have 128 bits.
func Write(w io.Writer, format string, each func(func(Row) error) error) (string, error) {
	if err := Known(format); err != nil {
		return "", err
	}
	sum := sha256.New()
	out := bufio.NewWriter(io.MultiWriter(w, sum))
	write := func(values []string) error { return writeJSON(out, values) }
	if format == CSV {
		c := csv.NewWriter(out)
		write = func(values []string) error { _ = c.Write(values); c.Flush(); return c.Error() }
		if err := write(names()); err != nil {
			return "", err
		}
	}
	if err := each(func(r Row) error { return write(fields(r)) }); err != nil {
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
func fields(r Row) []string {
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
