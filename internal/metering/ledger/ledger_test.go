package ledger

import (
	"context"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/unkeyed/unkey/go/deploy/metald/internal/metering/usage"
)

// What the ledger has is what the meters of the sampler have, to the last byte, also after a restart in the middle.
func TestTheLedgerIsWhatTheTicksSay(t *testing.T) {
	h := newHost(t, 1)
	defer h.close()
	h.begin("a", "acme")
	b := h.begin("b", "acme")
	h.begin("c", "other")
	l := h.ledger(nil)
	for i := range 3000 {
		h.tick(7 * second)
		switch i {
		case 500:
			h.enter(b, usage.Paused)
		case 900:
			h.enter(b, usage.Running)
		case 1500:
			h.end(b, "guest-shutdown")
			h.caught(l)
			if err := l.save(); err != nil {
				t.Fatal(err)
			}
		case 2000:
			mustClose(t, l)
			l = h.ledger(nil)
		}
	}
	h.caught(l)
	defer func() { mustClose(t, l) }()
	accounts := l.Accounts()
	if len(accounts) != 2 || l.LastEpoch() != 3 {
		t.Fatalf("%d live, last epoch %d", len(accounts), l.LastEpoch())
	}
	for i, g := range h.guests {
		if diff := cmp.Diff(g.meter, accounts[i].Meter, cmp.AllowUnexported(usage.Reading{})); diff != "" {
			t.Errorf("%s (-sampler +ledger):\n%s", g.life.Incarnation.VM, diff)
		}
	}
	for _, g := range append(h.guests, h.ended...) {
		vm := g.life.Incarnation.VM
		if got := sum(ask(t, l, Query{VM: vm}).Windows); got != g.meter.Totals.Amount {
			t.Errorf("%s so far: %+v, the sampler has %+v", vm, got, g.meter.Totals.Amount)
		}
		hours := ask(t, l, Query{VM: vm, From: noon, To: noon.Add(24 * time.Hour), Step: time.Hour})
		if got := sum(hours.Windows); got.Of != g.meter.Totals.Of {
			t.Errorf("%s by the hour: %v, the sampler has %v", vm, got.Of, g.meter.Totals.Of)
		}
	}
	acme := ask(t, l, Query{Tenant: "acme"})
	if got, want := sum(acme.Windows).Of[usage.CPU], h.guests[0].meter.Totals.Of[usage.CPU].Plus(b.meter.Totals.Of[usage.CPU]); got != want {
		t.Errorf("acme used %s ns, not %s", got, want)
	}
	for _, q := range []Query{{VM: "a", Tenant: "other"}, {VM: "nobody"}, {VM: "ab"}} {
		if a := ask(t, l, q); a.Known || len(a.Windows) > 0 {
			t.Errorf("%+v: %+v", q, a)
		}
	}
}

// However the ledger was opened, saved and closed on the way, it is the same as one that is made anew of the log; and
// windows of any step over any range sum up to the one window of that range.
func TestWindowsSumUpAndReplaysChangeNothing(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		h := newHost(t, rapid.Uint64().Draw(rt, "seed"))
		defer h.close()
		l := h.ledger(nil)
		defer func() { mustClose(t, l) }()
		names, n := []string{"a", "b", "c"}, rapid.IntRange(1, 250).Draw(rt, "steps")
		for range n {
			switch what := rapid.IntRange(0, 30).Draw(rt, "step"); {
			case len(h.guests) == 0 || what == 0 && len(h.guests) < 5:
				h.begin(rapid.SampledFrom(names).Draw(rt, "vm"), rapid.SampledFrom(names).Draw(rt, "tenant"))
			case what == 1:
				h.enter(h.guests[0], rapid.SampledFrom([]usage.State{usage.Running, usage.Paused}).Draw(rt, "state"))
			case what == 2:
				h.end(h.guests[rapid.IntRange(0, len(h.guests)-1).Draw(rt, "which")], "guest-shutdown")
			case what == 3:
				h.caught(l)
			case what == 4:
				h.caught(l)
				if err := l.save(); err != nil {
					rt.Fatal(err)
				}
			case what == 5: // as after a crash: nothing is saved
				mustClose(t, l)
				l = h.ledger(nil)
			case what == 6:
				h.flush()
				mustClose(t, l)
				h.restart()
				l = h.ledger(nil)
			case what == 7: // somebody sets the clock
				h.at.Wall += rapid.SampledFrom([]int64{-2 * 3600, -30, -1, 1, 30, 2 * 3600}).Draw(rt, "step") * second
			default:
				h.tick(rapid.Int64Range(1, 400*second).Draw(rt, "ns"))
			}
		}
		h.caught(l)
		anew := h.ledger(func(c *Config) { c.Path += ".anew" })
		defer mustClose(t, anew)
		if got, want := exported(t, anew), exported(t, l); got != want {
			rt.Errorf("made anew:\n%s\nas it was:\n%s", got, want)
		}
		for range 5 {
			windowsSumUp(rt, h, l)
		}
		audit, err := l.Audit(context.Background())
		if err != nil || len(audit.Different) > 0 || audit.Last != h.last || audit.Incarnations != len(h.guests)+len(h.ended) {
			rt.Errorf("%+v, %v", audit, err)
		}
	})
}

func windowsSumUp(t *rapid.T, h *host, l *Ledger) {
	lasted := max(int((h.at.Wall-noon.UnixNano())/second), 0) + 2
	from := rapid.IntRange(-100, lasted).Draw(t, "from")
	to := rapid.IntRange(from+1, lasted+100).Draw(t, "to")
	q := Query{From: noon.Add(time.Duration(from) * time.Second), To: noon.Add(time.Duration(to) * time.Second)}
	if rapid.Bool().Draw(t, "aligned") {
		q.From, q.To = q.From.Truncate(time.Hour), q.To.Truncate(time.Hour).Add(time.Hour)
	}
	if q.VM = rapid.SampledFrom([]string{"", "a", "b"}).Draw(t, "vm"); q.VM == "" {
		q.Tenant = rapid.SampledFrom([]string{"a", "b"}).Draw(t, "tenant")
	}
	one, err := l.Usage(context.Background(), q)
	if err != nil {
		t.Fatal(err)
	}
	if len(one.Windows) > 1 {
		t.Fatalf("one window is %d", len(one.Windows))
	}
	q.Step = time.Duration(rapid.SampledFrom([]int{1, 7, 60, 3600, 5000, 7200}).Draw(t, "step")) * time.Second
	many, err := l.Usage(context.Background(), q)
	if err != nil {
		t.Fatal(err)
	}
	if got, want := sum(many.Windows), sum(one.Windows); got != want || many.Quarantined != one.Quarantined {
		t.Errorf("%+v:\n%d windows sum up to %+v\none has %+v", q, len(many.Windows), got, want)
	}
	var last time.Time
	for _, w := range many.Windows {
		if w.From.Before(last) || w.To.Sub(w.From) > q.Step || w.From.Before(q.From) || w.To.After(q.To) {
			t.Errorf("%+v: a window from %s to %s", q, w.From, w.To)
		}
		last = w.To
	}
}
