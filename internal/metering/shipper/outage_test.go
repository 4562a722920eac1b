package shipper_test

import (
	"context"
	"math/rand/v2"
	"os"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/proto"

	pb "github.com/unkeyed/unkey/go/deploy/metald/gen/billing/v1"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/metering/shipper"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/metering/usage"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/metering/wal"
)

// soak says whether the long forms run.
func soak() bool { return os.Getenv("METALD_TEST_SOAK") == "1" }

// TestReceiverAwayForLong has a receiver away while VMs run for hours, of a clock that runs as fast as the log takes
// ticks. When it is back it has the totals of all before any history, and then everything; a shipper needs no more
// memory for that.
func TestReceiverAwayForLong(t *testing.T) {
	vms, ticks := 20, 3000
	if soak() {
		vms, ticks = 1000, 24*36_000
	}
	w, n, dir := newWorld(t, wal.Options{}), newNetwork(t), t.TempDir()
	receiver := within(t, dir)
	n.lead(receiver)
	var mu sync.Mutex
	accounts := []usage.Account{}
	s, stop := ship(t, w, n, func(c *shipper.Config) {
		c.Heartbeat = time.Hour
		c.Accounts = func() []usage.Account { mu.Lock(); defer mu.Unlock(); return accounts }
	})
	w.begin(vms - vms/4)
	w.ticks(900)
	w.durable()
	until(t, s, time.Minute, "some is shipped", func(st shipper.Status) bool { return st.Batches > uint64(vms/2) })
	n.lead(nil)
	w.begin(vms / 4) // of which the receiver has not heard
	w.ticks(ticks)
	w.durable()
	mu.Lock()
	accounts = w.enc.Accounts()
	mu.Unlock()
	until(t, s, time.Minute, "the outage is noticed", func(st shipper.Status) bool { return !st.DownSince.IsZero() && st.Retries > 3 })
	if st := s.Status(); st.OldestUnacked <= 0 || st.UnbilledNs < st.UnbilledMostNs || st.Acked >= w.log.Status().Durable {
		t.Errorf("the outage does not show: %+v", st)
	}

	var batches, before atomic.Int64
	done := make(chan struct{})
	var most uint64
	var waiting int
	var watch sync.WaitGroup
	watch.Go(func() { most, waiting = mostUntil(done, s) })
	n.seen = func(path string, body []byte) {
		switch path {
		case "/billing.v1.BillingService/SendMetricsBatch":
			batches.Add(1)
		case "/billing.v1.BillingService/SendHeartbeat":
			before.CompareAndSwap(0, batches.Load()+1)
			var beat pb.SendHeartbeatRequest
			if err := proto.Unmarshal(body, &beat); err != nil || len(beat.GetTotals()) != vms {
				t.Errorf("the heartbeat has totals of %d VMs, %v", len(beat.GetTotals()), err)
			}
		}
	}
	n.lead(receiver)
	until(t, s, time.Minute, "the receiver is greeted", func(st shipper.Status) bool { return st.DownSince.IsZero() })
	for i := range accounts {
		resp, err := n.api().GetUsage(context.Background(), connect.NewRequest(&pb.GetUsageRequest{VmId: accounts[i].Life.Incarnation.VM}))
		if err != nil || len(resp.Msg.GetWindows()) == 0 || amounts(resp.Msg.GetWindows()[0].GetUsage()) != truth(accounts[i].Meter.Totals.Amount) {
			t.Errorf("%s is not known by its totals first: %v, %v, want %s", accounts[i].Life.Incarnation.VM, resp, err, truth(accounts[i].Meter.Totals.Amount))
		}
	}
	began := time.Now()
	w.endAll()
	shipped(t, w, s, 8*time.Hour)
	took := time.Since(began)
	close(done)
	watch.Wait()
	t.Logf("%d VMs, %d ticks each: %.0f times as fast as they came; %d MB of heap at most", vms, ticks, float64(ticks)/10/took.Seconds(), most>>20)
	if before.Load() != 1 {
		t.Errorf("%d batches came before the totals", before.Load()-1)
	}
	if limit := uint64(64<<20 + vms<<17); most > limit { // with the receiver's and the world's
		t.Errorf("%d MB of heap", most>>20)
	}
	if limit := vms + 64; waiting > limit {
		t.Errorf("%d requests waited at a time", waiting)
	}
	billed(t, n, w.ended)
	stop()
	receiver.stop()
	audited(t, dir)
}

// mostUntil is the most heap that was in use, and the most requests that waited, until done.
func mostUntil(done chan struct{}, s *shipper.Shipper) (most uint64, waiting int) {
	for {
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		most, waiting = max(most, m.HeapAlloc), max(waiting, s.Status().Waiting)
		select {
		case <-done:
			return most, waiting
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// TestAnUnreliableNetwork drops, cuts, doubles, delays and reorders.
func TestAnUnreliableNetwork(t *testing.T) {
	deliveries := int64(600)
	if soak() {
		deliveries = 100_000
	}
	w, n, dir := newWorld(t, wal.Options{}), newNetwork(t), t.TempDir()
	receiver := within(t, dir)
	n.lead(receiver)
	n.faults.Store(&faults{drop: 80, cut: 80, twice: 100, late: 80, slow: 100})
	s, stop := ship(t, w, n, func(c *shipper.Config) { c.BatchTicks, c.InFlight, c.LastRetry = 50, 4, 5*time.Millisecond })
	w.begin(20)
	for n.delivered.Load() < deliveries {
		w.ticks(200)
		w.durable()
		if rand.IntN(4) == 0 {
			w.end(w.epoch - 19)
			w.begin(1)
		}
		last := w.log.Status().Durable - 150
		until(t, s, time.Minute, "the log is followed", func(st shipper.Status) bool { return st.Position >= last })
	}
	w.endAll()
	shipped(t, w, s, 5*time.Minute)
	n.faults.Store(&faults{})
	billed(t, n, w.ended)
	st := s.Status()
	t.Logf("%d deliveries, %d batches, %d retries", n.delivered.Load(), st.Batches, st.Retries)
	if st.Retries == 0 || st.Quarantined != 0 || st.ChainBreaks != 0 || st.GapTicks != 0 {
		t.Errorf("status %+v", st)
	}
	stop()
	receiver.stop()
	audited(t, dir)
}

// TestBothEndAtRandomMoments restarts the shipper and kills the receiver, again and again.
func TestBothEndAtRandomMoments(t *testing.T) {
	rounds := 30
	if soak() {
		rounds = 300
	}
	w, n, dir := newWorld(t, wal.Options{SegmentBytes: 256 << 10}), newNetwork(t), t.TempDir()
	b := spawn(t, dir)
	n.lead(b)
	w.begin(20)
	for round := range rounds {
		_, stop := ship(t, w, n, func(c *shipper.Config) { c.BatchTicks = 50 })
		w.ticks(100 + rand.IntN(200))
		if round%3 == 1 {
			w.end(w.epoch - 19)
			w.begin(1)
		}
		w.durable()
		time.Sleep(time.Duration(rand.IntN(60_000)) * time.Microsecond) // the random moment
		switch round % 4 {
		case 0, 1:
			stop()
		case 2:
			b.stop()
			time.Sleep(time.Duration(rand.IntN(5_000)) * time.Microsecond) // of another
			stop()
			b = spawn(t, dir)
			n.lead(b)
		case 3: // metald as a whole
			stop()
			w.restart(wal.Options{SegmentBytes: 256 << 10}, uint64(rand.IntN(200)))
		}
	}
	w.endAll()
	s, stop := ship(t, w, n, func(c *shipper.Config) { c.BatchTicks = 50 })
	shipped(t, w, s, time.Minute)
	billed(t, n, w.ended)
	if st := s.Status(); st.Quarantined != 0 || st.ChainBreaks != 0 {
		t.Errorf("status %+v", st)
	}
	stop()
	b.stop()
	audited(t, dir)
}
