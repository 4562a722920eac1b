package daemon

import (
	"fmt"
	"strings"
	"testing"

	"github.com/unkeyed/unkey/go/deploy/metald/internal/config"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/metering/record"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/metering/usage"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/metering/wal"
)

// TestTheLogTakesAsManyVMsAsThereMayBe, with the longest names that the API lets through.
func TestTheLogTakesAsManyVMsAsThereMayBe(t *testing.T) {
	for _, vms := range []int{1, 1000, 3000} {
		log, err := openWAL(config.Config{StateDir: t.TempDir()}, vms, "host")
		if err != nil {
			t.Fatal(err)
		}
		var e record.Encoder
		for i := range vms {
			life := usage.Life{
				Incarnation: usage.Incarnation{
					Host: strings.Repeat("h", 128), VM: fmt.Sprintf("%064d", i), Epoch: uint64(i + 1), Boot: strings.Repeat("b", 36), StartTicks: 1 << 40,
				},
				Customer: fmt.Sprintf("%0256d", i), Start: usage.Time{Mono: 1 << 50, Wall: 1 << 60},
				Limits: usage.Limits{CPUMilli: 1 << 20, MemoryBytes: 1 << 40, DiskBytesPerSecond: 1 << 40, NetBytesPerSecond: 1 << 40, TickNs: 100_000_000},
			}
			for f := range usage.Field(usage.Fields) {
				life.Baseline.Put(f, usage.MaxValue)
			}
			account := usage.Account{Life: life, Meter: *life.Meter()}
			for q := range account.Meter.Totals.Of {
				account.Meter.Totals.Of[q] = usage.U128{Hi: 1 << 20, Lo: 1 << 63}
			}
			e.Restore(record.OpenOf(account))
		}
		body := e.Keyframe(nil, usage.Time{Mono: 1 << 51, Wall: 1 << 60})
		if _, err := log.Append(wal.Record{Type: record.TypeKeyframe, Keyframe: true, Body: body}); err != nil {
			t.Errorf("%d VMs, %d bytes: %v", vms, len(body), err)
		}
		if err := log.Close(); err != nil {
			t.Error(err)
		}
	}
}
