package ledger

import "github.com/unkeyed/unkey/go/deploy/metald/internal/metering/usage"

// Thin adds many ticks that the log has as one. Where the meter is at the first of them, what they had of memory over
// time and of the time in each state is taken as it was; counters are known by themselves. Where it has a part of them
// already, they are a tick after a gap.
func (b *book) Thin(epoch uint64, s usage.Sample, used usage.Amount) {
	b.work++
	b.now(s.At)
	a := b.accounts[epoch]
	if a == nil || s.Seq < a.meter.Totals.Next {
		return
	}
	from := a.meter.Totals.At
	if lasted(used) != usage.Of64(uint64(max(s.At.Mono-from.Mono, 0))) {
		b.add(a, s)
		return
	}
	place := a.place
	var rest usage.Amount // what the meter makes of it, but for what is known better
	a.place = func(own usage.Span) {
		counters, other := own, own
		for q := range usage.Quantity(usage.Quantities) {
			if isCounter(q) {
				other.Amount.Of[q] = usage.U128{}
			} else {
				counters.Amount.Of[q] = usage.U128{}
			}
		}
		rest = rest.Plus(other.Amount)
		if !counters.Amount.IsZero() {
			place(counters)
		}
	}
	b.add(a, s)
	a.place = place
	exact := usage.Span{From: from, To: s.At, Amount: usage.Amount{Measured: rest.Measured | used.Measured, Incomplete: rest.Incomplete | used.Incomplete}}
	for q := range usage.Quantity(usage.Quantities) {
		if !isCounter(q) {
			exact.Amount.Of[q] = used.Of[q]
			a.meter.Totals.Of[q] = a.meter.Totals.Of[q].Minus(rest.Of[q]).Plus(used.Of[q])
		}
	}
	a.meter.Totals.Measured |= used.Measured
	a.meter.Totals.Incomplete |= used.Incomplete
	place(exact)
}

func isCounter(q usage.Quantity) bool {
	f, measured := q.Field()
	return measured && f.IsCounter()
}

// lasted is how much time an amount covers: in every moment a VM is in one state.
func lasted(a usage.Amount) usage.U128 {
	return a.Of[usage.RunningNs].Plus(a.Of[usage.PausedNs]).Plus(a.Of[usage.OtherNs]).Plus(a.Of[usage.UnobservedNs])
}
