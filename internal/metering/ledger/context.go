package ledger

import (
	"github.com/unkeyed/unkey/go/deploy/metald/internal/metering/record"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/metering/usage"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/metering/wal"
)

// nobody takes what records say, and does nothing with it.
type nobody struct{}

func (nobody) Table(usage.Time, []record.Open)       {}
func (nobody) Begin(usage.Life)                      {}
func (nobody) Enter(uint64, usage.Time, usage.State) {}
func (nobody) Sample(uint64, usage.Sample)           {}
func (nobody) Thin(uint64, usage.Leap)               {}
func (nobody) End(usage.End)                         {}
func (nobody) Signed(record.Signature)               {}

// readFor reads a record for the sake of those that are coded against it.
func readFor(d *record.Decoder, e wal.Entry) {
	if e.Lost != nil || d.Decode(e.Type, e.Body, nobody{}) != nil {
		d.Lost()
	}
}
