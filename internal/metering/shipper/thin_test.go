package shipper_test

import (
	"context"
	"testing"
	"time"

	"github.com/unkeyed/unkey/go/deploy/metald/internal/metering/record/thin"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/metering/shipper"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/metering/wal"
)

// TestAThinnedLogIsBilledExactly has the log made coarser while the receiver is away: resolution is lost, and no total.
func TestAThinnedLogIsBilledExactly(t *testing.T) {
	opt := wal.Options{SegmentBytes: 128 << 10, ReserveBytes: 64 << 10, QuotaBytes: 500 << 10, Thin: thin.Records}
	w, n, dir := newWorld(t, opt), newNetwork(t), t.TempDir()
	b := within(t, dir)
	n.lead(b)
	s, stop := ship(t, w, n, func(c *shipper.Config) { c.BatchTicks = 50 })
	w.begin(10)
	w.ticks(500)
	w.durable()
	until(t, s, time.Minute, "some is shipped", func(st shipper.Status) bool { return st.Batches >= 80 })
	n.lead(nil)
	ctx, cancel := context.WithCancel(context.Background())
	compacted := make(chan error, 1)
	go func() { compacted <- w.log.Compact(ctx) }()
	for range 20 {
		w.ticks(1000)
		w.durable()
	}
	w.begin(1)
	w.ticks(300)
	w.endAll()
	w.durable()
	for deadline := time.Now().Add(3 * time.Second); w.log.Status().Bytes > opt.QuotaBytes && time.Now().Before(deadline); {
		time.Sleep(time.Millisecond) // until the log is coarse
	}
	cancel()
	if err := <-compacted; err != nil {
		t.Fatal(err)
	}
	n.lead(b)
	shipped(t, w, s, time.Minute)
	billed(t, n, w.ended)
	st := s.Status()
	t.Logf("%d batches of 10 times %d ticks", st.Batches, 20800)
	if st.Batches > 2500 || st.GapTicks != 0 || st.Quarantined != 0 || st.SetAside != 0 {
		t.Errorf("status %+v", st)
	}
	stop()
	b.stop()
	audited(t, dir)
}
