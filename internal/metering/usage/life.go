package usage

// Life is what is said of an incarnation when it begins, and holds as long as it lives.
type Life struct {
	Incarnation Incarnation
	Customer    string // who is billed
	Start       Time   // of the baseline
	State       State  // from Start on
	Baseline    Reading
	Limits      Limits
}

// Meter returns the meter of a life in which nothing was used yet.
func (l Life) Meter() *Meter { return NewMeter(l.Start, l.State, l.Baseline, l.Limits) }

// Account is a life and what was used in it so far.
type Account struct {
	Life  Life
	Meter Meter
}

// End is how an incarnation ended.
type End struct {
	Life   Life
	Last   Sample // the last tick: what was read when nothing more could be used, or when it was last seen alive
	Final  Totals // from the baseline to Last: Meter.Final
	Reason string // such as "guest-shutdown" or "host-lost"
}

// Finish makes the End of a life whose last tick is last.
func (a *Account) Finish(last Sample, reason string) (End, []Finding) {
	found := a.Meter.Add(last, nil, nil)
	return End{Life: a.Life, Last: last, Final: a.Meter.Final(), Reason: reason}, found
}
