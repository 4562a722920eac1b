package usage

// Meter sums up the ticks of one incarnation. Its fields are what it remembers: they can be kept, and a Meter made of
// them goes on where the other was. It is O(1), however long the incarnation lives.
type Meter struct {
	Limits Limits
	Start  Time // of the baseline
	Totals Totals
	State  State

	Last Reading      // the last believed value of each field
	Seen [Fields]Time // when it was read; for levels, up to when it is summed up
	Lost uint64       // ticks before the next one that were not read, and are not yet in Totals
	// Unknown are fields that were UNKNOWN at the last tick. What a level was is decided when it is known again; a
	// counter that is known again is exact across, and one that is not leaves the life's totals Incomplete.
	Unknown Set
}

// Span is an amount that was used from one moment to another.
type Span struct {
	From, To Time
	Amount   Amount
}

// NewMeter begins an incarnation at its baseline. A counter that the baseline does not know begins at the first value
// that is seen: what came before was not measured. A level that it knows holds from then on.
func NewMeter(at Time, state State, baseline Reading, limits Limits) *Meter {
	m := &Meter{Limits: limits, Start: at, State: state, Totals: Totals{At: at}}
	for f := range Field(Fields) {
		if v, ok := baseline.Value(f); ok {
			m.Last.Put(f, v)
			m.Seen[f] = at
		}
	}
	return m
}

// Add takes the tick s. It gives what was used since to place, in one or more spans that add up to the growth of
// Totals, and appends to found what it could not believe. A tick that is in Totals already changes nothing.
func (m *Meter) Add(s Sample, place func(Span), found []Finding) []Finding {
	if s.Seq < m.Totals.Next {
		return found
	}
	m.Skip(s.Seq)
	m.Totals.Next = s.Seq + 1
	if s.At.Mono < m.Totals.At.Mono {
		m.Lost++ // it says nothing that can be believed
		return append(found, Finding{Kind: ClockFell, Seq: s.Seq, At: s.At, Was: Of64(uint64(m.Totals.At.Mono)), Got: Of64(uint64(max(s.At.Mono, 0)))})
	}
	found = m.wall(s, found)
	gap := m.Lost > 0
	state := m.State
	if gap && state != s.State {
		state = Unobserved
	}
	main := m.advance(s.At, state)
	for f := range Field(Counters) {
		found = m.counter(f, s, &main, place, found)
	}
	for f := Field(Counters); int(f) < Fields; f++ {
		found = m.level(f, s, gap, &main, place, found)
	}
	m.State = s.State
	m.put(main, place)
	return found
}

// Skip notes that the ticks before next were not read.
func (m *Meter) Skip(next uint64) {
	if next > m.Totals.Next {
		m.Lost += next - m.Totals.Next
		m.Totals.Next = next
	}
}

// Enter notes that the VM entered a state between two ticks.
func (m *Meter) Enter(at Time, state State, place func(Span)) {
	if at.Mono < m.Totals.At.Mono {
		at = m.Totals.At // it is seen later than it was: the tick says so
	}
	if m.Lost > 0 {
		m.Unknown |= m.Last.Known() & (1<<Resident | 1<<Allocated) // as across any gap
	}
	main := m.advance(at, m.State)
	for f := Field(Counters); int(f) < Fields; f++ {
		if _, ok := m.Last.Value(f); ok && !m.Unknown.Has(f) {
			m.hold(f, m.effective(f, m.State), at, &main, place)
		}
	}
	m.State = state
	m.put(main, place)
}

// advance moves the meter to at, through time in the given state.
func (m *Meter) advance(at Time, state State) Span {
	main := Span{From: m.Totals.At, To: at}
	main.Amount.Of[durationOf(state)] = Of64(uint64(at.Mono - m.Totals.At.Mono))
	main.Amount.Of[GapTicks] = Of64(m.Lost)
	m.Lost = 0
	m.Totals.At = at
	return main
}

// put adds a span to the totals, and has it placed.
func (m *Meter) put(s Span, place func(Span)) {
	if s.Amount.IsZero() {
		return
	}
	m.Totals.Amount = m.Totals.Amount.Plus(s.Amount)
	if place != nil {
		place(s)
	}
}

// since adds to main what was used of q since from, or puts it as a span of its own where that is another time.
func (m *Meter) since(from Time, q Quantity, n U128, main *Span, place func(Span)) {
	main.Amount.Measured |= 1 << q
	if from == main.From {
		main.Amount.Of[q] = n
		return
	}
	var own Span
	own.From, own.To = from, main.To
	own.Amount.Of[q], own.Amount.Measured = n, 1<<q
	m.put(own, place)
}

func (m *Meter) counter(f Field, s Sample, main *Span, place func(Span), found []Finding) []Finding {
	v, ok := s.Reading.Value(f)
	if !ok {
		m.Unknown |= 1 << f
		return found
	}
	last, began := m.Last.Value(f)
	switch {
	case v > MaxValue:
		found = m.refuse(Beyond, f, s, last, v, Of64(MaxValue), main, found)
		return found
	case !began:
		main.Amount.Incomplete |= 1 << f
		main.Amount.Measured |= 1 << f
	case v < last:
		return m.refuse(Fell, f, s, last, v, U128{}, main, found)
	default:
		most := m.Limits.growth(f, uint64(s.At.Mono-m.Seen[f].Mono))
		if most.Less(Of64(v - last)) {
			return m.refuse(Beyond, f, s, last, v, Of64(last).Plus(most), main, found)
		}
		m.since(m.Seen[f], Quantity(f), Of64(v-last), main, place)
	}
	m.Last.Put(f, v)
	m.Seen[f] = s.At
	m.Unknown &^= 1 << f
	return found
}

func (m *Meter) level(f Field, s Sample, gap bool, main *Span, place func(Span), found []Finding) []Finding {
	v, ok := s.Reading.Value(f)
	last, began := m.Last.Value(f)
	if ok && v > m.Limits.level() {
		found = m.refuse(Beyond, f, s, last, v, Of64(m.Limits.level()), main, found)
		ok = false
	}
	if !ok {
		main.Amount.Incomplete |= 1 << f
		m.Unknown |= 1 << f
		return found
	}
	if began {
		held := m.effective(f, m.State)
		m.Last.Put(f, v)
		if gap || m.Unknown.Has(f) {
			held = min(held, m.effective(f, s.State))
		}
		m.hold(f, held, s.At, main, place)
	} else {
		main.Amount.Measured |= 1 << f
	}
	m.Last.Put(f, v)
	m.Seen[f] = s.At
	m.Unknown &^= 1 << f
	return found
}

// hold sums up level f, held up to at.
func (m *Meter) hold(f Field, held uint64, at Time, main *Span, place func(Span)) {
	m.since(m.Seen[f], Quantity(f), Mul(held, uint64(at.Mono-m.Seen[f].Mono)), main, place)
	m.Seen[f] = at
}

// effective is what counts of level f in a state: memory is promised only while it is set aside.
func (m *Meter) effective(f Field, state State) uint64 {
	if f == Allocated && !state.HoldsMemory() {
		return 0
	}
	v, _ := m.Last.Value(f)
	return v
}

func (m *Meter) refuse(kind Kind, f Field, s Sample, was, got uint64, most U128, main *Span, found []Finding) []Finding {
	main.Amount.Incomplete |= 1 << f
	return append(found, Finding{Kind: kind, Quantity: Quantity(f), Seq: s.Seq, At: s.At, Was: Of64(was), Got: Of64(got), Most: most})
}

// Clocks that run freely differ by some 500 ppm.
const (
	slewFloor = 1_000_000 // ns
	slewShare = 1000      // of the time between
)

// wall finds a step of the wall clock between the last tick and s.
func (m *Meter) wall(s Sample, found []Finding) []Finding {
	ns := s.At.Mono - m.Totals.At.Mono
	step := s.At.Wall - m.Totals.At.Wall - ns
	if allowed := slewFloor + ns/slewShare; step <= allowed && step >= -allowed {
		return found
	}
	return append(found, Finding{Kind: WallStepped, Seq: s.Seq, At: s.At, Was: Of64(uint64(max(m.Totals.At.Wall+ns, 0))), Got: Of64(uint64(max(s.At.Wall, 0)))})
}
