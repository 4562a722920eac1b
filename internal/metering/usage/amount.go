package usage

import "fmt"

// Quantity is one line of what was used. The first are numbered as the fields that they come from.
type Quantity uint8

// Quantities. Those of counters are in the counter's unit, those of levels in byte-nanoseconds.
const (
	RunningNs    Quantity = Quantity(Fields) + iota // time in which the VM ran
	PausedNs                                        // time in which it was paused
	OtherNs                                         // time in any other state
	UnobservedNs                                    // time in which nobody knows
	GapTicks                                        // ticks that were not read

	Quantities = int(GapTicks) + 1 // how many there are
)

var quantityNames = [Quantities]string{
	"cpu_ns", "disk_read_bytes", "disk_write_bytes", "network_rx_bytes", "network_tx_bytes",
	"memory_resident_byte_ns", "memory_allocated_byte_ns",
	"running_ns", "paused_ns", "other_ns", "unobserved_ns", "gap_ticks",
}

// String is the quantity's name on the wire and in exports.
func (q Quantity) String() string {
	if int(q) >= Quantities {
		return fmt.Sprintf("quantity %d", uint8(q))
	}
	return quantityNames[q]
}

// Field is what q is measured by; false for time and ticks, which are always known.
func (q Quantity) Field() (Field, bool) { return Field(q), int(q) < Fields }

// durationOf is the line on which time in state s counts.
func durationOf(s State) Quantity {
	switch s {
	case Running:
		return RunningNs
	case Paused:
		return PausedNs
	case Unobserved:
		return UnobservedNs
	}
	return OtherNs
}

// Amount is what was used: in some time, by an incarnation or by many.
type Amount struct {
	Of       [Quantities]U128
	Measured Set // fields that were measured at some tick; what was not is UNKNOWN and not 0
	// Incomplete are fields of which what is counted is the least that was used: levels that were UNKNOWN at some tick,
	// counters whose baseline was UNKNOWN or that still were at the end, and all of which a value was set aside. A
	// counter that is UNKNOWN at a tick and known later is exact across.
	Incomplete Set
}

// Known returns what was used of q; false if nobody measured it.
func (a Amount) Known(q Quantity) (U128, bool) {
	f, measured := q.Field()
	return a.Of[q], !measured || a.Measured.Has(f)
}

// Plus returns the sum of two amounts.
func (a Amount) Plus(b Amount) Amount {
	for q := range a.Of {
		a.Of[q] = a.Of[q].Plus(b.Of[q])
	}
	a.Measured |= b.Measured
	a.Incomplete |= b.Incomplete
	return a
}

// Minus returns what a has beyond b, line by line.
func (a Amount) Minus(b Amount) Amount {
	for q := range a.Of {
		a.Of[q] = a.Of[q].Minus(b.Of[q])
	}
	return a
}

// Max returns the larger of each line: the join of two views of the same cumulative amount. It is idempotent,
// commutative and associative.
func (a Amount) Max(b Amount) Amount {
	for q := range a.Of {
		a.Of[q] = a.Of[q].Max(b.Of[q])
	}
	a.Measured |= b.Measured
	a.Incomplete |= b.Incomplete
	return a
}

// IsZero says whether nothing is in a, not even that something was measured.
func (a Amount) IsZero() bool { return a == Amount{} }

// Totals is what an incarnation used from its baseline up to a tick.
type Totals struct {
	Amount
	At   Time   // up to when
	Next uint64 // the tick after the last that is in it
}

// Join returns what both know together. It is idempotent, commutative and associative, and Totals of one incarnation
// only grow: so copies, loss and disorder of Totals change nothing but when their sum is known.
func (t Totals) Join(o Totals) Totals {
	t.Amount = t.Amount.Max(o.Amount)
	if t.At.Mono < o.At.Mono || t.At.Mono == o.At.Mono && t.At.Wall < o.At.Wall {
		t.At = o.At
	}
	t.Next = max(t.Next, o.Next)
	return t
}
