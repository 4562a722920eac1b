package usage

// Leap is many ticks of one incarnation as one: what a Meter that saw each of them was before and is after. After says
// what was used since the life began, so a Leap is taken right wherever the other Meter is: it may have seen some of
// the ticks, or none for a while.
type Leap struct {
	First uint64 // the tick that came next before
	From  Time   // up to when ticks were summed up before
	Used  Amount // between From and After
	After Meter
}

// LeapTo is what a meter did that was m and is after.
func (m *Meter) LeapTo(after *Meter) Leap {
	return Leap{First: m.Totals.Next, From: m.Totals.At, Used: after.Totals.Amount.Minus(m.Totals.Amount), After: *after}
}

// Last is the last tick of a Leap, as one sample: the last believed value of each field that was known at it.
func (l *Leap) Last() Sample {
	s := Sample{Seq: max(l.After.Totals.Next, 1) - 1, At: l.After.Totals.At, State: l.After.State}
	for f := range Field(Fields) {
		if v, ok := l.After.Last.Value(f); ok && !l.After.Unknown.Has(f) {
			s.Reading.Put(f, v)
		}
	}
	return s
}

// Leap takes many ticks at once. Like Add it gives what was used since to place, changes nothing where all of it is in
// Totals already, and appends to found what contradicts it.
func (m *Meter) Leap(l Leap, place func(Span), found []Finding) []Finding {
	return m.CatchUp(&l.After, place, found)
}

// CatchUp takes what another Meter of the same life has seen beyond m: totals are the other's, and m goes on from where
// the other is. What was used between is placed in one span for each field, since that was seen last. A meter that saw
// less changes nothing. Totals that are less than those of m are found short, and stay m's.
func (m *Meter) CatchUp(o *Meter, place func(Span), found []Finding) []Finding {
	if o.Totals.Next < m.Totals.Next || o.Totals.At.Mono < m.Totals.At.Mono {
		return found
	}
	main := Span{From: m.Totals.At, To: o.Totals.At}
	for q := range Quantity(Quantities) {
		was, is := m.Totals.Of[q], o.Totals.Of[q]
		if is.Less(was) {
			found = append(found, Finding{Kind: Short, Quantity: q, Seq: o.Totals.Next, At: o.Totals.At, Was: was, Got: is})
			continue
		}
		m.grow(q, is.Minus(was), o, &main, place)
	}
	main.Amount.Measured |= o.Totals.Measured &^ m.Totals.Measured
	main.Amount.Incomplete = o.Totals.Incomplete &^ m.Totals.Incomplete
	m.put(main, place)
	m.Totals.At, m.Totals.Next = o.Totals.At, o.Totals.Next
	m.State, m.Last, m.Seen, m.Lost, m.Unknown = o.State, o.Last, o.Seen, o.Lost, o.Unknown
	return found
}

// grow adds n of q to main, or places it where it was used: since its field was seen last, up to where o saw it.
func (m *Meter) grow(q Quantity, n U128, o *Meter, main *Span, place func(Span)) {
	f, measured := q.Field()
	if n.IsZero() {
		return
	}
	own := *main
	if measured && m.Last.Known().Has(f) && o.Last.Known().Has(f) {
		own.From, own.To = m.Seen[f], o.Seen[f]
	}
	if own.From == main.From && own.To == main.To || own.To.Mono < own.From.Mono {
		main.Amount.Of[q] = n
		return
	}
	own.Amount = Amount{}
	own.Amount.Of[q] = n
	if measured {
		own.Amount.Measured = 1 << f
	}
	m.put(own, place)
}
