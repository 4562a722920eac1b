package usage

// Check returns what cannot be true of totals that somebody announces for the meter's incarnation.
func (m *Meter) Check(t Totals) []Finding {
	var found []Finding
	elapsed := uint64(max(t.At.Mono-m.Start.Mono, 0))
	for q := range Quantity(Quantities) {
		if most := m.most(q, elapsed, t.Next); most.Less(t.Of[q]) {
			found = append(found, Finding{Kind: Beyond, Quantity: q, Seq: t.Next, At: t.At, Was: m.Totals.Of[q], Got: t.Of[q], Most: most})
		}
	}
	return found
}

// most is the most that can have been used of q in the first ns of the incarnation.
func (m *Meter) most(q Quantity, ns, ticks uint64) U128 {
	f, measured := q.Field()
	switch {
	case q == GapTicks:
		return Of64(ticks)
	case !measured:
		return Of64(ns)
	case f.IsCounter():
		return m.Limits.growth(f, ns)
	}
	return Mul(m.Limits.level(), ns)
}

// Settle takes totals of the moment at which the meter is, from who saw every tick of it: memory over time is theirs
// where it is more, because the meter saw fewer ticks and held the lower value between them. Counters need no settling.
// What is measured and less than the ticks sum up to is found short: ticks and totals contradict each other.
func (m *Meter) Settle(t Totals, from Time, place func(Span)) []Finding {
	if t.Next != m.Totals.Next || t.At != m.Totals.At {
		return nil
	}
	var found []Finding
	for q := range Quantity(Fields) {
		if sum := m.Totals.Of[q]; t.Measured.Has(Field(q)) && t.Of[q].Less(sum) {
			found = append(found, Finding{Kind: Short, Quantity: q, Seq: t.Next, At: t.At, Was: sum, Got: t.Of[q]})
		}
	}
	rest := Span{From: from, To: t.At}
	for f := Field(Counters); int(f) < Fields; f++ {
		rest.Amount.Of[f] = t.Of[f].Minus(m.Totals.Of[f])
		if !rest.Amount.Of[f].IsZero() {
			rest.Amount.Measured |= 1 << f
		}
	}
	m.put(rest, place)
	return found
}

// Final is what was used if nothing follows: totals for an End.
func (m *Meter) Final() Totals {
	t := m.Totals
	t.Incomplete |= m.Unknown & AllCounters
	t.Of[GapTicks] = t.Of[GapTicks].Plus(Of64(m.Lost))
	return t
}

// Close ends the incarnation with its final totals: what they have beyond the meter's is placed in the time after the
// last tick that came. Then what was placed is what is in Totals, to the last byte. No tick may follow. Counters that
// are still UNKNOWN stay Incomplete, unless final has measured them to their end. The zero final is for a life of which
// nobody says more than its ticks did.
func (m *Meter) Close(final Totals, place func(Span)) {
	at := m.Totals.At
	if final.At.Mono > at.Mono {
		at = final.At
	}
	rest := Span{From: m.Totals.At, To: at}
	joined := m.Totals.Join(final)
	rest.Amount = joined.Amount.Minus(m.Totals.Amount)
	rest.Amount.Measured, rest.Amount.Incomplete = final.Measured, final.Incomplete
	rest.Amount.Incomplete |= m.Unknown & AllCounters &^ m.ended(final)
	if lost := Of64(m.Lost); rest.Amount.Of[GapTicks].Less(lost) {
		rest.Amount.Of[GapTicks] = lost
	}
	m.Lost, m.Unknown = 0, m.Unknown&^AllCounters
	m.put(rest, place)
	m.Totals.At, m.Totals.Next = joined.At, joined.Next
}

// ended are fields that final has measured to their end.
func (m *Meter) ended(final Totals) Set {
	if final.Next < m.Totals.Next {
		return 0
	}
	return final.Measured &^ final.Incomplete
}

// Finish closes the meter of a life as its End has it: with the last tick, if that is new, and the final totals. It
// returns what could not be believed. Where m did not see all that was before the last tick, the final totals alone
// count: m would lay time on the wrong state, and what is placed stays.
func (m *Meter) Finish(e End, place func(Span)) []Finding {
	var found []Finding
	if trial := *m; e.Last.Seq < e.Final.Next { // else there was no tick
		trial.Add(e.Last, nil, nil)
		if trial.Final().within(e.Final) {
			found = m.Add(e.Last, place, nil)
		}
	}
	m.Close(e.Final, place)
	return found
}

// within says whether nothing of t is more than o has.
func (t Totals) within(o Totals) bool {
	for q := range t.Of {
		if o.Of[q].Less(t.Of[q]) {
			return false
		}
	}
	return t.Next <= o.Next && t.At.Mono <= o.At.Mono
}
