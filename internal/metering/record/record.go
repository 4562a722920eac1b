// Package record is what metald writes into its write-ahead log: which incarnations there are, what was read of each
// at every tick, and how they ended. It makes bytes of that and reads them again, and knows no file and no clock.
//
// A keyframe is the table of the incarnations that live, with everything that is needed to decode what follows. A tick
// holds what changed since the tick before. All others can be decoded alone.
package record

import "github.com/unkeyed/unkey/go/deploy/metald/internal/metering/usage"

// Types of records, as the log keeps them.
const (
	TypeKeyframe byte = iota + 1 // the table of incarnations that live
	TypeTick                     // one reading of each
	TypeBegin                    // an incarnation begins
	TypeEnter                    // one enters a state
	TypeEnd                      // one ended: a final record, which can be decoded alone
	TypeThin                     // many ticks as one
	TypeSigned                   // the receiver's signature of the log's head
	TypeLost                     // records that were lost before those around them were made coarser
)

// Open is an incarnation that lives, as a keyframe has it.
type Open struct {
	Life  usage.Life
	Meter usage.Meter // what all records so far say was used: totals are known again after a loss
	Next  uint64      // the tick that comes next; beyond the meter's where ticks between were not taken
	At    usage.Time  // of the last tick; of the baseline where there was none
	State usage.State
	Last  usage.Reading // of the last tick
}

// OpenOf is what an earlier metald left, to be given to Encoder.Restore: nothing is known of a last tick but that it was.
func OpenOf(a usage.Account) Open {
	t := a.Meter.Totals
	return Open{Life: a.Life, Meter: a.Meter, Next: t.Next, At: t.At, State: a.Meter.State}
}

// Line is what a tick has of one incarnation.
type Line struct {
	Epoch   uint64
	Reading usage.Reading
}

// Signature is the receiver's word that it saw the log's head.
type Signature struct {
	Record    uint64 // number of the head
	Hash      [32]byte
	SignedAt  int64 // ns since 1970, by the receiver's clock
	PublicKey []byte
	Signature []byte
}

// Sink takes what records say, in their order. What it is given is its own only until it returns.
type Sink interface {
	// Table is a keyframe: all incarnations that live, in order of epoch. After a loss it tells what was missed: one that
	// is not in it has ended, and its End is lost or comes yet; one that is new has begun; and each meter has what was
	// used (usage.Meter.CatchUp).
	Table(at usage.Time, open []Open)
	Begin(l usage.Life)
	// Enter is a state that an incarnation enters. After a loss it is not told before the next Table.
	Enter(epoch uint64, at usage.Time, state usage.State)
	// Sample is one tick of one incarnation, for usage.Meter.Add. Of what was not read the reading is empty, and ticks
	// that were not taken are missing in Seq.
	Sample(epoch uint64, s usage.Sample)
	// Thin is many ticks as one: for usage.Meter.Leap.
	Thin(epoch uint64, l usage.Leap)
	End(e usage.End)
	Signed(s Signature)
}

// Mourner is a Sink that is told, too, of records that were lost before those around them were made coarser. Of others
// the log tells.
type Mourner interface {
	Lost(records uint64)
}
