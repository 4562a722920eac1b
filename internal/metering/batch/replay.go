package batch

import "github.com/unkeyed/unkey/go/deploy/metald/internal/metering/usage"

// Replay lets a meter take the ticks up to last, and what happened between them, in order of time. Ticks that t leaves
// out were not read.
func (t Ticks) Replay(m *usage.Meter, last uint64, place func(usage.Span)) []usage.Finding {
	var found []usage.Finding
	entered := t.Entered
	for _, s := range t.Samples {
		for len(entered) > 0 && entered[0].At.Mono <= s.At.Mono {
			m.Enter(entered[0].At, entered[0].State, place)
			entered = entered[1:]
		}
		found = m.Add(s, place, found)
	}
	for _, e := range entered {
		m.Enter(e.At, e.State, place)
	}
	m.Skip(last + 1)
	return found
}
