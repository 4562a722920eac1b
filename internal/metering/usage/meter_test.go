package usage

import (
	"math/big"
	"testing"

	"pgregory.net/rapid"
)

const tick = 100_000_000

var start = Time{Mono: 5_000_000, Wall: 1_800_000_000 * second}

// after is the moment ns after start.
func after(ns int64) Time { return Time{Mono: start.Mono + ns, Wall: start.Wall + ns} }

func zeroBaseline() Reading {
	var r Reading
	for f := range Field(Counters) {
		r.Put(f, 0)
	}
	return r
}

// ledger adds up what is placed, by hour and as a whole.
type ledger struct {
	hours map[int64]Amount
	sum   Amount
}

func newLedger() *ledger { return &ledger{hours: map[int64]Amount{}} }

func (l *ledger) place(s Span) {
	l.sum = l.sum.Plus(s.Amount)
	Split(s, Hour, func(at int64, part Amount) { l.hours[at] = l.hours[at].Plus(part) })
}

func (l *ledger) total() Amount {
	var sum Amount
	for _, a := range l.hours {
		sum = sum.Plus(a)
	}
	return sum
}

// history is a life of an incarnation: ticks of which some know nothing of some fields.
func history(t *rapid.T, unknown bool) []Sample {
	n := rapid.IntRange(1, 60).Draw(t, "ticks")
	samples := make([]Sample, n)
	var values [Fields]uint64
	var mono int64
	for i := range samples {
		mono += rapid.Int64Range(1, 40*60*second).Draw(t, "dt")
		s := Sample{Seq: uint64(i), At: after(mono), State: rapid.SampledFrom([]State{Running, Running, Paused, Stopping}).Draw(t, "state")}
		for f := range Field(Fields) {
			if f.IsCounter() {
				values[f] += rapid.Uint64Range(0, 1<<40).Draw(t, "used")
			} else {
				values[f] = rapid.Uint64Range(0, 1<<44).Draw(t, "level")
			}
			if !unknown || rapid.IntRange(0, 3).Draw(t, "unknown") > 0 {
				s.Reading.Put(f, values[f])
			}
		}
		samples[i] = s
	}
	return samples
}

func meterOf(t *rapid.T, samples []Sample) (*Meter, *ledger) {
	m, l := NewMeter(start, Booting, zeroBaseline(), Limits{}), newLedger()
	for _, s := range samples {
		if found := m.Add(s, l.place, nil); found != nil {
			t.Fatalf("an honest history has findings: %v", found)
		}
	}
	return m, l
}

func TestWhatIsPlacedIsTheTotal(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		m, l := meterOf(t, history(t, true))
		if l.sum != m.Totals.Amount || l.total() != m.Totals.Amount {
			t.Fatalf("placed %v, by hour %v, total %v", l.sum, l.total(), m.Totals.Amount)
		}
	})
}

func TestIntegralsAreExact(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		samples := history(t, false)
		m, _ := meterOf(t, samples)
		want := map[Quantity]*big.Int{}
		for q := range Quantity(Quantities) {
			want[q] = new(big.Int)
		}
		want[OtherNs].SetInt64(samples[0].At.Mono - start.Mono)
		for i, s := range samples[1:] {
			before := samples[i]
			dt := big.NewInt(s.At.Mono - before.At.Mono)
			want[durationOf(before.State)].Add(want[durationOf(before.State)], dt)
			for f := Resident; f <= Allocated; f++ {
				if v, _ := before.Reading.Value(f); f == Resident || before.State.HoldsMemory() {
					want[Quantity(f)].Add(want[Quantity(f)], new(big.Int).Mul(dt, new(big.Int).SetUint64(v)))
				}
			}
		}
		for f := range Field(Counters) {
			v, _ := samples[len(samples)-1].Reading.Value(f)
			want[Quantity(f)].SetUint64(v)
		}
		for q, n := range want {
			if got := toBig(m.Totals.Of[q]); got.Cmp(n) != 0 {
				t.Fatalf("%s is %s, want %s", q, got, n)
			}
		}
	})
}

func TestCopiesChangeNothing(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		samples := history(t, true)
		want, hours := meterOf(t, samples)
		m, l := NewMeter(start, Booting, zeroBaseline(), Limits{}), newLedger()
		for i := range samples {
			for range rapid.IntRange(1, 3).Draw(t, "copies") {
				m.Add(samples[rapid.IntRange(0, i).Draw(t, "older")], l.place, nil)
				if m.Totals.Next == samples[i].Seq {
					m.Add(samples[i], l.place, nil)
				}
			}
			m.Add(samples[i], l.place, nil)
		}
		if *m != *want || l.sum != hours.sum {
			t.Fatalf("with copies %+v, without %+v", m, want)
		}
	})
}

func TestLossCostsResolutionOnly(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		samples := history(t, false)
		truth, _ := meterOf(t, samples)
		var kept []Sample
		for i, s := range samples {
			if i == len(samples)-1 || rapid.Bool().Draw(t, "kept") {
				kept = append(kept, s)
			}
		}
		m, l := meterOf(t, kept)
		for f := range Field(Counters) {
			if m.Totals.Of[f] != truth.Totals.Of[f] {
				t.Fatalf("%s is %s across gaps, and was %s", f, m.Totals.Of[f], truth.Totals.Of[f])
			}
		}
		if want := Of64(uint64(len(samples) - len(kept))); m.Totals.Of[GapTicks] != want {
			t.Fatalf("%s ticks are missing, and %s were lost", m.Totals.Of[GapTicks], want)
		}
		if got, want := elapsed(m.Totals), uint64(m.Totals.At.Mono-start.Mono); got != want {
			t.Fatalf("%d ns are in some state, of %d", got, want)
		}
		// Who saw every tick says what memory really was; then nothing is missing, and what is placed is the total.
		m.Close(truth.Totals, l.place)
		for f := Resident; f <= Allocated; f++ {
			if m.Totals.Of[f].Less(truth.Totals.Of[f]) {
				t.Fatalf("%s is %s, less than the final totals %s", f, m.Totals.Of[f], truth.Totals.Of[f])
			}
		}
		if l.total() != m.Totals.Amount {
			t.Fatalf("placed %v, total %v", l.total(), m.Totals.Amount)
		}
	})
}

func elapsed(t Totals) uint64 {
	return t.Of[RunningNs].Lo + t.Of[PausedNs].Lo + t.Of[OtherNs].Lo + t.Of[UnobservedNs].Lo
}

func TestTotalsGrowOnly(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		samples := history(t, true)
		m := NewMeter(start, Booting, zeroBaseline(), Limits{})
		for _, s := range samples {
			before := m.Totals
			m.Add(s, nil, nil)
			if m.Totals.Join(before) != m.Totals {
				t.Fatalf("%+v came after %+v", m.Totals, before)
			}
		}
	})
}

func TestTotalsJoinInAnyOrder(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var all []Totals
		m := NewMeter(start, Booting, zeroBaseline(), Limits{})
		for _, s := range history(t, true) {
			m.Add(s, nil, nil)
			all = append(all, m.Totals)
		}
		var joined Totals
		for _, i := range rapid.SliceOfN(rapid.IntRange(0, len(all)-1), 0, 100).Draw(t, "delivered") {
			joined = joined.Join(all[i])
		}
		joined = all[len(all)-1].Join(joined).Join(all[0])
		if joined != m.Totals {
			t.Fatalf("joined %+v, want %+v", joined, m.Totals)
		}
	})
}

func TestSplitSumsUp(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var s Span
		s.From = Time{Mono: rapid.Int64Range(0, 1<<60).Draw(t, "mono"), Wall: rapid.Int64Range(0, 1<<61).Draw(t, "wall")}
		s.To.Mono = s.From.Mono + rapid.Int64Range(0, 500*Hour).Draw(t, "length")
		for q := range s.Amount.Of {
			s.Amount.Of[q] = drawU128(t, "of", 1<<40)
		}
		step := rapid.Int64Range(second, 30*Hour).Draw(t, "step")
		if (s.To.Mono-s.From.Mono)/step > 2000 {
			step = Hour
		}
		var sum Amount
		last := int64(-1)
		Split(s, step, func(start int64, part Amount) {
			if start%step != 0 || start <= last || start+step <= s.From.Wall || start > s.From.Wall+s.To.Mono-s.From.Mono {
				t.Fatalf("window %d is out of order or place", start)
			}
			last, sum = start, sum.Plus(part)
		})
		if sum != s.Amount {
			t.Fatalf("parts sum up to %v of %v", sum, s.Amount)
		}
	})
}
