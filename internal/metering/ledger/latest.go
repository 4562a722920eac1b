package ledger

import "github.com/unkeyed/unkey/go/deploy/metald/internal/metering/usage"

// recentTicks is how many ticks of CPU time an account remembers: a second and one.
const recentTicks = 11

// recent is the CPU time of an account at its last ticks.
type recent struct {
	at   [recentTicks]int64 // ns of the monotonic clock
	cpu  [recentTicks]uint64
	next int
	n    int
}

// push notes what m has seen, if it is news.
func (r *recent) push(m *usage.Meter) {
	v, ok := m.Last.Value(usage.CPU)
	last := (r.next + recentTicks - 1) % recentTicks
	if !ok || m.Seen[usage.CPU] != m.Totals.At || r.n > 0 && r.at[last] == m.Totals.At.Mono {
		return
	}
	r.at[r.next], r.cpu[r.next] = m.Totals.At.Mono, v
	r.next = (r.next + 1) % recentTicks
	r.n = min(r.n+1, recentTicks)
}

// rate is the CPU time in the last second, or in the time since the tick before where that is longer. Zeros: not known.
func (r *recent) rate() (cpu, over uint64) {
	if r.n < 2 {
		return 0, 0
	}
	last := (r.next + recentTicks - 1) % recentTicks
	for back := r.n - 1; back > 0; back-- {
		i := (last + recentTicks - back) % recentTicks
		if ns := r.at[last] - r.at[i]; ns > 0 && (ns <= 1_050_000_000 || back == 1) {
			return r.cpu[last] - r.cpu[i], uint64(ns)
		}
	}
	return 0, 0
}

// Now is what is known of an incarnation that lives.
type Now struct {
	Incarnation usage.Incarnation
	At          usage.Time // of the last tick
	State       usage.State
	Last        usage.Reading // the last value of each field that was believed; counters from the baseline of the VMM
	Used        usage.Amount  // since the incarnation began
	CPUNs       uint64        // CPU time in the OverNs before At, about a second
	OverNs      uint64        // 0: not known yet
}

// Latest returns the last reading of a VM that lives; false where there is none.
func (l *Ledger) Latest(vm string) (Now, bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	a := l.byVM[vm]
	if a == nil {
		return Now{}, false
	}
	n := Now{Incarnation: a.life.Incarnation, At: a.meter.Totals.At, State: a.meter.State, Last: a.meter.Last, Used: a.totals().Amount}
	n.CPUNs, n.OverNs = a.recent.rate()
	return n, true
}
