package export

import (
	"crypto/sha256"
	"encoding/csv"
	"encoding/hex"
	"encoding/json"
	"strings"
	"testing"

	"github.com/unkeyed/unkey/go/deploy/metald/internal/metering/usage"
)

type rows []Row

func (r rows) each(f func(Row) error) error {
	for _, row := range r {
		if err := f(row); err != nil {
			return err
		}
	}
	return nil
}

func sample() rows {
	row := Row{Incarnation: usage.Incarnation{Host: "h", VM: `v,"1"`, Epoch: 1<<64 - 1}, Customer: "c", Hour: 1_800_000_000}
	row.Amount.Of[usage.Resident] = usage.Mul(1<<60, 1<<60)
	row.Amount.Measured = usage.SetOf(usage.Resident, usage.CPU)
	row.Amount.Incomplete = usage.SetOf(usage.CPU, usage.DiskRead)
	return rows{row, row}
}

func TestCSV(t *testing.T) {
	var out strings.Builder
	sum, err := Write(&out, CSV, sample().each)
	if err != nil {
		t.Fatal(err)
	}
	if want := sha256.Sum256([]byte(out.String())); sum != hex.EncodeToString(want[:]) {
		t.Error("the checksum is of something else")
	}
	table, err := csv.NewReader(strings.NewReader(out.String())).ReadAll()
	if err != nil || len(table) != 3 {
		t.Fatalf("%d lines, %v", len(table), err)
	}
	got := map[string]string{}
	for i, name := range table[0] {
		got[name] = table[1][i]
	}
	for name, want := range map[string]string{
		"hour": "2027-01-15T08:00:00Z", "vm_id": `v,"1"`, "epoch": "18446744073709551615", "cpu_ns": "0", "disk_read_bytes": "",
		"memory_resident_byte_ns": "1329227995784915872903807060280344576", "gap_ticks": "0", "incomplete": "cpu,disk_read",
	} {
		if got[name] != want {
			t.Errorf("%s is %q, want %q", name, got[name], want)
		}
	}
}

func TestJSONLines(t *testing.T) {
	var out strings.Builder
	if _, err := Write(&out, JSONL, sample().each); err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(out.String()) {
		var got map[string]any
		if err := json.Unmarshal([]byte(line), &got); err != nil {
			t.Fatalf("%s: %v", line, err)
		}
		if len(got) != len(names()) || got["disk_read_bytes"] != nil || got["cpu_ns"] != "0" {
			t.Errorf("%v: what is unknown is null, and what is zero is not", got)
		}
	}
	if _, err := Write(&out, "xml", sample().each); err == nil {
		t.Error("an unknown format is written")
	}
}
