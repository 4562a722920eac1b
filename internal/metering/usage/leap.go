package usage

// Leap is many ticks of one incarnation as one: what a Meter made of them. It begins where another Meter has to be to
// take it without a gap, and ends where the Meter was that saw all of them.
type Leap struct {
	First uint64 // the tick that came next when it began
	From  Time   // up to when ticks were summed up when it began
	Was   State  // then

	// Last is the last tick. Its reading has the last believed value of each field, whenever it was seen.
	Last    Sample
	Seen    [Fields]Time // when each field of Last was seen; for levels, up to when it is summed up
	Unknown Set          // fields that were UNKNOWN at the last tick
	// Used is what was used from the beginning to the end: memory over time, time in each state, ticks that were not
	// read, and what counters grew by.
	Used Amount
}

// LeapOf is what m did since it was as before was.
func (m *Meter) LeapOf(before *Meter) Leap {
	return Leap{
		First: before.Totals.Next, From: before.Totals.At, Was: before.State,
		Last: Sample{Seq: m.Totals.Next - 1, At: m.Totals.At, State: m.State, Reading: m.Last},
		Seen: m.Seen, Unknown: m.Unknown, Used: m.Totals.Amount.Minus(before.Totals.Amount),
	}
}
