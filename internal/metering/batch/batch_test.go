package batch

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/unkeyed/unkey/go/deploy/metald/internal/metering/usage"
)

func codec(t testing.TB) *Codec {
	t.Helper()
	c, err := NewCodec()
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestRoundTrip(t *testing.T) {
	c := codec(t)
	rapid.Check(t, func(t *rapid.T) {
		want := Ticks{Samples: []usage.Sample{}, Entered: []Entered{}}
		for range rapid.IntRange(0, 50).Draw(t, "ticks") {
			s := usage.Sample{
				Seq:   rapid.Uint64().Draw(t, "seq"),
				At:    usage.Time{Mono: rapid.Int64().Draw(t, "mono"), Wall: rapid.Int64().Draw(t, "wall")},
				State: usage.State(rapid.IntRange(0, usage.States-1).Draw(t, "state")),
			}
			for f := range usage.Field(usage.Fields) {
				if rapid.Bool().Draw(t, "known") {
					s.Reading.Put(f, rapid.Uint64().Draw(t, "value"))
				}
			}
			want.Samples = append(want.Samples, s)
			if rapid.Bool().Draw(t, "transition") {
				want.Entered = append(want.Entered, Entered{s.At, s.State})
			}
		}
		for range rapid.IntRange(0, 3).Draw(t, "leaps") {
			want.Leaps = append(want.Leaps, drawLeap(t))
		}
		got, err := c.Decode(c.Encode(want))
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, got, cmp.Comparer(func(a, b usage.Reading) bool { return a == b })); diff != "" {
			t.Fatal(diff)
		}
	})
}

// drawLeap draws whatever a meter can be, and more.
func drawLeap(t *rapid.T) (m usage.Meter) {
	moment := func() usage.Time {
		return usage.Time{Mono: rapid.Int64().Draw(t, "mono"), Wall: rapid.Int64().Draw(t, "wall")}
	}
	m.Totals.At, m.Totals.Next, m.Lost = moment(), rapid.Uint64().Draw(t, "next"), rapid.Uint64().Draw(t, "lost")
	for q := range m.Totals.Of {
		m.Totals.Of[q] = usage.U128{Hi: rapid.Uint64().Draw(t, "hi"), Lo: rapid.Uint64().Draw(t, "lo")}
	}
	set := func() usage.Set { return usage.Set(rapid.ByteMax(byte(usage.All)).Draw(t, "set")) }
	m.Totals.Measured, m.Totals.Incomplete, m.Unknown = set(), set(), set()
	m.State = usage.State(rapid.IntRange(0, usage.States-1).Draw(t, "state"))
	for f := range usage.Field(usage.Fields) {
		if rapid.Bool().Draw(t, "known") {
			m.Last.Put(f, rapid.Uint64().Draw(t, "value"))
			m.Seen[f] = moment()
		}
	}
	return m
}

// TestALeapIsAsGoodAsItsTicks replays ticks, and the same with some of them as leaps.
func TestALeapIsAsGoodAsItsTicks(t *testing.T) {
	c := codec(t)
	start := usage.Time{Mono: 1, Wall: 1.8e18}
	limits := usage.Limits{CPUMilli: 1000, TickNs: 1e8}
	one := usage.NewMeter(start, usage.Running, usage.Reading{}.With(usage.CPU, 0), limits)
	other := *one
	var whole, coarse Ticks
	m := *one
	for i := range uint64(300) {
		at := usage.Time{Mono: 1 + int64(i+1)*1e8, Wall: 1.8e18 + int64(i+1)*1e8}
		s := usage.Sample{Seq: i, At: at, State: usage.Running, Reading: usage.Reading{}.With(usage.CPU, i*i).With(usage.Resident, 1<<20+i*7919%100).With(usage.Allocated, 1<<30)}
		if i%70 > 40 {
			s.State = usage.Paused
		}
		if i%70 == 41 {
			e := Entered{usage.Time{Mono: at.Mono - 3e7, Wall: at.Wall - 3e7}, usage.Paused}
			whole.Entered = append(whole.Entered, e)
			m.Enter(e.At, e.State, nil)
			if i < 100 {
				coarse.Entered = append(coarse.Entered, e)
			}
		}
		whole.Samples = append(whole.Samples, s)
		m.Add(s, nil, nil)
		switch {
		case i < 100:
			coarse.Samples = append(coarse.Samples, s)
		case i%10 == 9:
			coarse.Leaps = append(coarse.Leaps, m)
		}
	}
	coarse, err := c.Decode(c.Encode(coarse))
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range append(whole.Replay(one, 299, nil), coarse.Replay(&other, 299, nil)...) {
		t.Error(f)
	}
	if *one != other {
		t.Errorf("by ticks %+v\nby leaps %+v", one, other)
	}
	absurd := m
	absurd.Totals.Next, absurd.Totals.Of[usage.CPU] = 400, usage.Of64(1e15)
	if found := (Ticks{Leaps: []usage.Meter{absurd}}).Replay(&other, 399, nil); len(found) != 1 || other.Totals.Of[usage.CPU] != one.Totals.Of[usage.CPU] {
		t.Errorf("a leap that cannot be true is taken: %v", found)
	}
}

func TestAnIdleMinuteIsSmall(t *testing.T) {
	var ticks Ticks
	for i := range uint64(600) {
		r := usage.Reading{}.With(usage.CPU, 5e9).With(usage.Resident, 1<<28).With(usage.Allocated, 1<<28)
		at := usage.Time{Mono: int64(i) * 1e8, Wall: int64(i)*1e8 + 1.8e18}
		ticks.Samples = append(ticks.Samples, usage.Sample{Seq: i, At: at, State: usage.Running, Reading: r})
	}
	if n := len(codec(t).Encode(ticks)); n > 200 {
		t.Errorf("600 ticks in which nothing happened take %d bytes", n)
	}
}

func FuzzDecode(f *testing.F) {
	c := codec(f)
	f.Add(c.Encode(Ticks{}))
	f.Add(c.Encode(Ticks{Samples: []usage.Sample{{Seq: 1, State: usage.Paused}}, Entered: []Entered{{}}}))
	f.Fuzz(func(t *testing.T, raw []byte) {
		if ticks, err := c.Decode(raw); err == nil {
			if _, err := c.Decode(c.Encode(ticks)); err != nil {
				t.Errorf("what was read cannot be written: %v", err)
			}
		}
		if ticks, err := c.Decode(c.enc.EncodeAll(raw, nil)); err == nil && len(ticks.Samples) > MaxTicks {
			t.Error("more ticks than may be")
		}
	})
}

func TestChainCoversEverything(t *testing.T) {
	inc := usage.Incarnation{Host: "h", VM: "v", Epoch: 1, Boot: "b", StartTicks: 2}
	base := Chain(Hash{}, inc, 0, 9, []byte("p"), usage.Totals{})
	other := inc
	other.Host, other.VM = "hv", ""
	var totals usage.Totals
	totals.Of[usage.GapTicks] = usage.Of64(1)
	for what, got := range map[string]Hash{
		"chain before": Chain(Hash{1}, inc, 0, 9, []byte("p"), usage.Totals{}),
		"incarnation":  Chain(Hash{}, other, 0, 9, []byte("p"), usage.Totals{}),
		"ticks":        Chain(Hash{}, inc, 0, 8, []byte("p"), usage.Totals{}),
		"payload":      Chain(Hash{}, inc, 0, 9, []byte("q"), usage.Totals{}),
		"totals":       Chain(Hash{}, inc, 0, 9, []byte("p"), totals),
	} {
		if got == base {
			t.Errorf("the %s is not in the chain", what)
		}
	}
}
