package usage

import (
	"fmt"
	"math"
)

// Limits are what no honest reading exceeds. 0 is for a bound that nobody knows.
type Limits struct {
	CPUMilli           uint64 // CPUs that the VM and its VMM can keep busy, in thousandths
	MemoryBytes        uint64 // most that the VMM can hold
	DiskBytesPerSecond uint64 // in one direction
	NetBytesPerSecond  uint64 // in one direction
	TickNs             uint64 // between two ticks: readings of one tick are not of one moment
}

// MaxValue is the most that a counter can be: what databases hold, and no machine has used.
const MaxValue = math.MaxInt64

const second = 1_000_000_000

// growth is the most that counter f can have grown by in ns.
func (l Limits) growth(f Field, ns uint64) U128 {
	var perSecond, unit uint64 = 0, second
	switch f {
	case CPU:
		perSecond, unit = l.CPUMilli, 1000
	case DiskRead, DiskWritten:
		perSecond = l.DiskBytesPerSecond
	default:
		perSecond = l.NetBytesPerSecond
	}
	if perSecond == 0 {
		return U128{Lo: MaxValue}
	}
	whole := Mul(ns+l.TickNs, perSecond) // of unit
	return whole.Part(1, unit).Plus(Of64(1))
}

// level is the most that memory can be.
func (l Limits) level() uint64 {
	if l.MemoryBytes == 0 {
		return MaxValue
	}
	return l.MemoryBytes
}

// Kind is what is wrong with a value.
type Kind uint8

// Kinds of findings.
const (
	Fell        Kind = iota + 1 // a counter is less than it was: another incarnation should have begun
	Beyond                      // more than is physically possible
	ClockFell                   // the monotonic clock is before that of an earlier tick
	WallStepped                 // the wall clock was set: an event, and no duration
	Short                       // announced totals are less than what their ticks sum up to
)

var kindNames = [...]string{"", "fell", "beyond", "clock_fell", "wall_stepped", "short"}

// String is the kind's name, as it stands in exports.
func (k Kind) String() string {
	if k == 0 || int(k) >= len(kindNames) {
		return fmt.Sprintf("kind %d", uint8(k))
	}
	return kindNames[k]
}

// Finding is something that the arithmetic would not take as it came, with the evidence.
type Finding struct {
	Kind     Kind
	Quantity Quantity // which line it is about; of no meaning for clocks
	Seq      uint64
	At       Time
	Was      U128 // the last value that was believed; for clocks, of the clock
	Got      U128 // the value that was not
	Most     U128 // the most that would have been
}

// Quarantined says whether a value was set aside; a step of the wall clock sets none aside.
func (f Finding) Quarantined() bool { return f.Kind != WallStepped }

// String says it for people.
func (f Finding) String() string {
	switch f.Kind {
	case ClockFell, WallStepped:
		return fmt.Sprintf("tick %d: %s, from %s to %s", f.Seq, f.Kind, f.Was, f.Got)
	case Beyond:
		return fmt.Sprintf("tick %d: %s: %s after %s is beyond %s", f.Seq, f.Quantity, f.Got, f.Was, f.Most)
	}
	return fmt.Sprintf("tick %d: %s %s, from %s to %s", f.Seq, f.Quantity, f.Kind, f.Was, f.Got)
}
