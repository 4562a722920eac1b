package record

import "github.com/unkeyed/unkey/go/deploy/metald/internal/metering/usage"

// Encoder makes bodies of records. It keeps the table of incarnations that live. It is for one goroutine.
type Encoder struct{}

// Restore puts an incarnation into the table that an earlier metald left, before the first Keyframe.
func (e *Encoder) Restore(o Open) { panic("to be written") }

// Keyframe appends the table to dst.
func (e *Encoder) Keyframe(dst []byte, at usage.Time) []byte { panic("to be written") }

// Begin adds an incarnation to the table.
func (e *Encoder) Begin(dst []byte, l usage.Life) []byte { panic("to be written") }

// Enter notes a state that an incarnation enters; its ticks have it from then on.
func (e *Encoder) Enter(dst []byte, epoch uint64, at usage.Time, state usage.State) []byte {
	panic("to be written")
}

// Tick appends one tick: a line for each incarnation, in order of epoch. Of those that have none nothing was read. missed
// is how many ticks before it were not taken, of all incarnations that lived at the tick before.
func (e *Encoder) Tick(dst []byte, at usage.Time, missed uint64, lines []Line) []byte {
	panic("to be written")
}

// End takes an incarnation out of the table.
func (e *Encoder) End(dst []byte, end usage.End) []byte { panic("to be written") }

// Signed appends a signature of the log's head.
func (e *Encoder) Signed(dst []byte, s Signature) []byte { panic("to be written") }

// Decoder reads records in their order. It is for one goroutine.
type Decoder struct{}

// Decode gives sink what a record says. The error is for a body that no Encoder made: it is as good as lost.
func (d *Decoder) Decode(typ byte, body []byte, sink Sink) error { panic("to be written") }

// Lost says that records are missing here: ticks can be decoded again after the next keyframe.
func (d *Decoder) Lost() { panic("to be written") }
