package ledger

import (
	"context"
	"errors"
	"sync"
	"testing"
	"time"

	"github.com/unkeyed/unkey/go/deploy/metald/internal/metering/usage"
)

// A ledger that runs is never behind for long, answers while it saves, and has everything when it stops. No answer is
// of a moment at which something counts twice or not at all: totals only grow.
func TestRunFollows(t *testing.T) {
	h := newHost(t, 7)
	defer h.close()
	g := h.begin("a", "acme")
	h.flush()
	l := h.ledger(func(c *Config) { c.SaveEvery, c.Now = 2*time.Millisecond, time.Now })
	ctx, stop := context.WithCancel(context.Background())
	ran := make(chan error, 1)
	go func() { ran <- l.Run(ctx) }()
	asked := make(chan int)
	var readers sync.WaitGroup
	for range 2 {
		readers.Go(func() { neverLess(t, l, asked) })
	}
	for range 3000 {
		h.tick(10 * second)
	}
	h.flush()
	for deadline := time.Now().Add(20 * time.Second); l.Position() < h.last; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("the ledger has %+v, the log %d", l.Status(), h.last)
		}
	}
	h.tick(10 * second)
	h.flush()
	close(asked)
	readers.Wait()
	stop()
	if err := <-ran; err != nil {
		t.Fatal(err)
	}
	if s := l.Status(); s.Saved != h.last || s.Position != h.last || s.Open != 1 || s.Err != nil {
		t.Errorf("stopped with %+v; the log has %d", s, h.last)
	}
	if got := sum(ask(t, l, Query{VM: "a"}).Windows); got != g.meter.Totals.Amount {
		t.Errorf("%+v, the sampler has %+v", got, g.meter.Totals.Amount)
	}
	mustClose(t, l)
}

// neverLess asks until done, and compares each answer with the one before.
func neverLess(t *testing.T, l *Ledger, done <-chan int) {
	var last, lastHours usage.Amount
	for {
		select {
		case <-done:
			return
		default:
		}
		so, err := l.Usage(context.Background(), Query{Tenant: "acme"})
		hours, err2 := l.Usage(context.Background(), Query{VM: "a", From: noon, To: noon.Add(240 * time.Hour)})
		if err := errors.Join(err, err2); err != nil {
			t.Error(err)
			return
		}
		now, nowHours := sum(so.Windows), sum(hours.Windows)
		if now.Max(last) != now || nowHours.Max(lastHours) != nowHours || nowHours.Max(now) != nowHours {
			t.Errorf("used %v, by the hour %v, after %v, %v", now, nowHours, last, lastHours)
			return
		}
		last, lastHours = now, nowHours
		l.Latest("a")
		l.Accounts()
	}
}

// A log that ends does not end the ledger, which waits to be stopped.
func TestTheLogEndsBeforeTheLedger(t *testing.T) {
	h := newHost(t, 8)
	defer h.close()
	h.begin("a", "acme")
	l := h.ledger(nil)
	ctx, stop := context.WithCancel(context.Background())
	ran := make(chan error, 1)
	go func() { ran <- l.Run(ctx) }()
	h.tick(second)
	if err := h.stop(); err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(20 * time.Second); l.Position() < h.last; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%+v, the log has %d", l.Status(), h.last)
		}
	}
	stop()
	if err := <-ran; err != nil {
		t.Error(err)
	}
	mustClose(t, l)
}

// Seconds are what the VM used in them, but for the ticks at their edges: what was used in a tick is spread over it.
func TestSecondsAreTrue(t *testing.T) {
	h := newHost(t, 9)
	defer h.close()
	g := h.begin("a", "acme")
	h.at.Mono, h.at.Wall = h.at.Mono+37*ms, h.at.Wall+37*ms // ticks are not at the edges
	truth := make([]uint64, 61)
	var most uint64
	for h.at.Wall < noon.Add(60*time.Second).UnixNano() {
		before := g.values[usage.CPU]
		h.tick(100 * ms)
		used := g.values[usage.CPU] - before
		most = max(most, used)
		truth[(h.at.Wall-noon.UnixNano())/second] += used
	}
	h.flush()
	l := h.ledger(nil)
	defer mustClose(t, l)
	windows := ask(t, l, Query{VM: "a", From: noon, To: noon.Add(time.Minute), Step: time.Second}).Windows
	if len(windows) != 60 {
		t.Fatalf("%d windows", len(windows))
	}
	for i, w := range windows {
		got := w.Amount.Of[usage.CPU].Lo
		if off := int64(got) - int64(truth[i]); off > int64(most) || off < -int64(most) {
			t.Errorf("second %d: %d ns, truly %d; a sample has at most %d", i, got, truth[i], most)
		}
		if i > 0 && w.Amount.Of[usage.RunningNs] != usage.Of64(uint64(second)) {
			t.Errorf("second %d has %s ns", i, w.Amount.Of[usage.RunningNs])
		}
	}
	now, ok := l.Latest("a")
	if v, _ := now.Last.Value(usage.CPU); !ok || now.OverNs != uint64(second) || v != g.values[usage.CPU] || now.At != h.at || now.State != usage.Running {
		t.Errorf("%+v, %t", now, ok)
	}
	if rate := now.CPUNs; rate == 0 || rate > now.OverNs {
		t.Errorf("%d ns of CPU in the last second", rate)
	}
	if _, ok := l.Latest("b"); ok {
		t.Error("a VM that never was is read")
	}
}

func TestSealed(t *testing.T) {
	h := newHost(t, 10)
	defer h.close()
	g := h.begin("a", "acme")
	l := h.ledger(nil)
	defer mustClose(t, l)
	sealed := func(want time.Duration) {
		t.Helper()
		h.caught(l)
		if got := l.Sealed(); !got.Equal(noon.Add(want)) {
			t.Errorf("at %s hours are complete up to %s, not %s", time.Unix(0, h.at.Wall).UTC(), got, noon.Add(want))
		}
	}
	for range 360 {
		h.tick(10 * second)
	}
	sealed(0) // it may come to the log that a VM began just before
	for range 60 {
		h.tick(10 * second)
	}
	sealed(time.Hour)
	h.at.Mono, h.at.Wall = h.at.Mono+3*3600*second, h.at.Wall+3*3600*second
	sealed(time.Hour) // nobody looked: what was used meanwhile is not in
	h.end(g, "guest-shutdown")
	sealed(4 * time.Hour)
}
