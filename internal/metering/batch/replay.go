package batch

import "github.com/unkeyed/unkey/go/deploy/metald/internal/metering/usage"

// Replay lets a meter take the ticks up to last, and what happened between them, in order of time. Ticks that t leaves
// out were not read. A leap that cannot be true is not taken: the ticks after it are exact all the same.
func (t Ticks) Replay(m *usage.Meter, last uint64, place func(usage.Span)) []usage.Finding {
	var found []usage.Finding
	entered, leaps := t.Entered, t.Leaps
	enter := func(until int64) {
		for len(entered) > 0 && entered[0].At.Mono <= until {
			m.Enter(entered[0].At, entered[0].State, place)
			entered = entered[1:]
		}
	}
	leap := func(before uint64) {
		for len(leaps) > 0 && leaps[0].Totals.Next <= before {
			enter(leaps[0].Totals.At.Mono)
			if impossible := m.Check(leaps[0].Totals); impossible != nil {
				found = append(found, impossible...)
			} else {
				found = m.CatchUp(&leaps[0], place, found)
			}
			leaps = leaps[1:]
		}
	}
	for _, s := range t.Samples {
		leap(s.Seq)
		enter(s.At.Mono)
		found = m.Add(s, place, found)
	}
	leap(last + 1)
	for _, e := range entered {
		m.Enter(e.At, e.State, place)
	}
	m.Skip(last + 1)
	return found
}
