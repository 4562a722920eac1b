package usage

import (
	"encoding/json"
	"testing"

	"pgregory.net/rapid"
)

// TestACounterThatIsKnownAgainIsExact: what nobody could read at some tick, and later could, is not missing.
func TestACounterThatIsKnownAgainIsExact(t *testing.T) {
	m, l := NewMeter(start, Running, zeroBaseline(), Limits{}), newLedger()
	m.Add(Sample{Seq: 0, At: after(tick), State: Running, Reading: Reading{}.With(CPU, 5)}, l.place, nil)
	if m.Unknown.Has(CPU) || !m.Unknown.Has(DiskRead) || m.Totals.Incomplete.Has(DiskRead) {
		t.Errorf("unknown %s, incomplete %s", m.Unknown, m.Totals.Incomplete)
	}
	text, err := json.Marshal(m)
	var kept Meter
	if err != nil || json.Unmarshal(text, &kept) != nil || kept != *m {
		t.Errorf("%v: kept %+v of %+v", err, kept, m)
	}
	kept.Add(Sample{Seq: 1, At: after(2 * tick), State: Running, Reading: zeroBaseline().With(CPU, 6).With(DiskRead, 7)}, l.place, nil)
	if final := kept.Final(); final.Incomplete&AllCounters != 0 || final.Of[DiskRead] != Of64(7) || !final.Measured.Has(DiskRead) {
		t.Errorf("in the end %+v", final)
	}
}

func TestWhatIsUnknownAtTheEndIsIncomplete(t *testing.T) {
	last := Sample{Seq: 1, At: after(2 * tick), State: Stopped, Reading: Reading{}.With(CPU, 9)}
	a := Account{Life: Life{Start: start, State: Running, Baseline: zeroBaseline()}}
	a.Meter = *a.Life.Meter()
	a.Meter.Add(Sample{Seq: 0, At: after(tick), State: Running, Reading: zeroBaseline().With(DiskRead, 4)}, nil, nil)
	seen := a.Meter
	end, found := a.Finish(last, "guest-shutdown")
	if want := SetOf(DiskRead, DiskWritten, NetReceived, NetSent); found != nil || end.Final.Incomplete&AllCounters != want {
		t.Fatalf("found %v, incomplete %s, want %s", found, end.Final.Incomplete, want)
	}
	t.Run("as its end says", func(t *testing.T) {
		m, l := seen, newLedger()
		if found := m.Finish(end, l.place); found != nil || m.Totals != end.Final {
			t.Errorf("found %v, totals %+v, want %+v", found, m.Totals, end.Final)
		}
		before := m
		if found := m.Finish(end, l.place); found != nil || m != before {
			t.Errorf("found %v: a second end changed %+v to %+v", found, before, m)
		}
	})
	t.Run("nobody says more than the ticks", func(t *testing.T) {
		m := seen
		m.Add(last, nil, nil)
		m.Close(Totals{}, nil)
		if m.Totals.Incomplete != end.Final.Incomplete {
			t.Errorf("incomplete %s, want %s", m.Totals.Incomplete, end.Final.Incomplete)
		}
	})
	t.Run("who saw all of it knows better", func(t *testing.T) {
		m, final := seen, end.Final
		m.Add(last, nil, nil)
		final.Incomplete = 0
		final.Of[DiskRead] = Of64(6)
		m.Close(final, nil)
		if m.Totals.Incomplete.Has(DiskRead) || m.Totals.Of[DiskRead] != Of64(6) {
			t.Errorf("totals %+v", m.Totals)
		}
	})
	t.Run("a life without a tick", func(t *testing.T) {
		m := a.Life.Meter()
		if found := m.Finish(End{Life: a.Life, Final: m.Final(), Reason: "host-lost"}, nil); found != nil || m.Totals.Of[GapTicks] != Of64(0) {
			t.Errorf("found %v, totals %+v", found, m.Totals)
		}
	})
}

// TestALeapIsAllItsTicks: a meter that takes leaps, some of them late, twice or not at all, is in the end where the one
// is that saw each tick, and has placed what that has counted.
func TestALeapIsAllItsTicks(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		limits := Limits{}
		if rapid.Bool().Draw(t, "limited") { // so that values are set aside
			limits = Limits{CPUMilli: 1000, MemoryBytes: 1 << 43, DiskBytesPerSecond: 1 << 30, TickNs: tick}
		}
		all := NewMeter(start, Booting, zeroBaseline(), limits)
		m, l := *all, newLedger()
		before := *all
		var leaps []Leap
		for _, s := range history(t, true) {
			if rapid.IntRange(0, 4).Draw(t, "entered") == 0 {
				all.Enter(Time{Mono: s.At.Mono - 1, Wall: s.At.Wall - 1}, s.State, nil)
			}
			all.Add(s, nil, nil)
			if rapid.IntRange(0, 3).Draw(t, "tick") == 0 {
				m.Leap(before.LeapTo(all), l.place, nil)
				m.Add(s, l.place, nil)
			}
			if rapid.IntRange(0, 3).Draw(t, "leap") == 0 {
				leaps = append(leaps, before.LeapTo(all))
				before = *all
				if rapid.Bool().Draw(t, "taken") {
					at := rapid.IntRange(0, len(leaps)-1).Draw(t, "which")
					if found := m.Leap(leaps[at], l.place, nil); found != nil {
						t.Fatal(found)
					}
				}
			}
		}
		if found := m.Leap(before.LeapTo(all), l.place, nil); found != nil {
			t.Fatal(found)
		}
		if m != *all || l.sum != m.Totals.Amount || l.total() != m.Totals.Amount {
			t.Fatalf("after leaps\n%+v, placed %+v; by ticks\n%+v", m, l.sum, all)
		}
	})
}

func TestTotalsThatFallAreFound(t *testing.T) {
	m := NewMeter(start, Running, zeroBaseline(), Limits{})
	other := *m
	m.Add(Sample{Seq: 0, At: after(tick), State: Running, Reading: zeroBaseline().With(CPU, 9)}, nil, nil)
	other.Add(Sample{Seq: 0, At: after(tick), State: Running, Reading: zeroBaseline().With(CPU, 8)}, nil, nil)
	found := m.CatchUp(&other, nil, nil)
	if len(found) != 1 || found[0].Kind != Short || found[0].Quantity != Quantity(CPU) || m.Totals.Of[CPU] != Of64(9) {
		t.Errorf("found %v, totals %v", found, m.Totals.Of)
	}
}

// TestAnEndKnowsBetterThanWhoMissedSomething: time counts once, in the state in which it was.
func TestAnEndKnowsBetterThanWhoMissedSomething(t *testing.T) {
	a := Account{Life: Life{Start: start, State: Booting, Baseline: zeroBaseline()}}
	a.Meter = *a.Life.Meter()
	missed, l := a.Meter, newLedger()
	a.Meter.Enter(after(tick/2), Running, nil)
	end, _ := a.Finish(Sample{Seq: 0, At: after(tick), State: Stopped, Reading: zeroBaseline()}, "guest-shutdown")
	missed.Finish(end, l.place)
	if missed.Totals != end.Final || l.sum.Of != end.Final.Of || elapsed(missed.Totals) != tick {
		t.Errorf("totals %+v, want %+v", missed.Totals, end.Final)
	}
}

// TestALeapIsPlacedWhereItWasUsed: a counter that was not read at the end was used before.
func TestALeapIsPlacedWhereItWasUsed(t *testing.T) {
	all := NewMeter(start, Running, zeroBaseline(), Limits{})
	m := *all
	all.Add(Sample{Seq: 0, At: after(tick), State: Running, Reading: zeroBaseline().With(DiskRead, 9)}, nil, nil)
	all.Add(Sample{Seq: 1, At: after(5 * tick), State: Running, Reading: Reading{}.With(CPU, 3)}, nil, nil)
	var placed []Span
	m.Leap((&m).LeapTo(all), func(s Span) { placed = append(placed, s) }, nil)
	if len(placed) != 2 || placed[0].From != start || placed[0].To != after(tick) || placed[0].Amount.Of[DiskRead] != Of64(9) ||
		placed[1].To != after(5*tick) || placed[1].Amount.Of[CPU] != Of64(3) || placed[1].Amount.Of[RunningNs] != Of64(5*tick) {
		t.Errorf("placed %+v", placed)
	}
}
