package shipper

import (
	"hash/fnv"

	"github.com/unkeyed/unkey/go/deploy/metald/internal/metering/batch"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/metering/usage"
)

// life is one life on its way to the receiver. Records of the log come to it in order, and may come again from an
// earlier one on: what it has taken it passes over.
type life struct {
	usage.Life
	size  uint64 // ticks of a batch
	phase uint64 // where in the ticks its batches end, so that those of many VMs do not end together

	acked mark
	dirty bool // acked is newer than what is kept

	meter   usage.Meter
	metered uint64 // the last record that is in meter
	seen    uint64 // the last record that is in a batch, or pending
	reached uint64 // the tick after the last that was read from the log
	next    uint64 // the tick after the last that is in a batch, or pending
	sentAt  int64  // ns since 1970 of that tick
	blind   bool
	damaged bool // records are missing: ticks that do not follow are told as lost
	absent  int  // keyframes in a row that do not have it
	ended   bool
	ending  uint64 // the record of its end, while what comes before the last step is made; else 0
	// epilogue is how it ended, where the receiver had that and lost it. The log may not have it any more.
	epilogue *usage.End

	pending        pending
	outbox         []*step // the first may be under way
	busy           bool    // it is
	queued         bool    // waits for its turn
	parked         int64   // ns since 1970: since when it rests; 0: it does not
	strikes        int     // answers in a row that brought it no further
	steps, crowded int     // what the engine counted of outbox
}

func newLife(l usage.Life, acked mark, size int) *life {
	h := fnv.New64a()
	h.Write([]byte(l.Incarnation.VM))
	made := &life{Life: l, size: uint64(size), phase: h.Sum64() % uint64(size), acked: acked}
	made.reset()
	return made
}

// reset forgets what is not acknowledged: it is read from the log again.
func (l *life) reset() {
	l.meter, l.metered, l.seen, l.blind = l.acked.Meter, l.acked.Metered, l.acked.Seen, l.acked.Blind
	l.next, l.reached = l.acked.Next, l.acked.Meter.Totals.Next
	l.sentAt = l.acked.Meter.Totals.At.Wall
	l.ended, l.ending, l.damaged, l.absent = false, 0, false, 0
	l.pending.reset()
	l.outbox = nil
}

// expect begins anew at the tick that the receiver expects, of whose chain it says where it is. What the meter has stays
// in it; ticks that are older are sent as the log has them.
func (l *life) expect(next uint64, chain batch.Hash) {
	again := next < l.acked.Meter.Totals.Next
	l.acked.Next, l.acked.Chain, l.dirty = next, chain, true
	if again {
		l.acked.Seen = 0
	}
	l.reset()
	if again {
		l.reached, l.damaged = 0, true
	}
}

// tick takes one tick.
func (l *life) tick(at uint64, s usage.Sample, encode func(batch.Ticks) []byte) {
	fresh := at > l.seen && s.Seq >= l.next
	if fresh && s.Seq > l.next && (l.damaged || s.Seq-l.next >= l.size) {
		l.miss(s.Seq-1, s.At.Wall, encode)
	}
	if at > l.metered {
		if m := &l.meter.Totals; s.Seq > m.Next && m.Next < l.next {
			l.blind = true // the receiver may have what is missing here
		}
		l.meter.Add(s, nil, nil)
	}
	l.took(at, s.Seq)
	if fresh {
		l.account(s.Seq, s.At.Wall)
		l.pending.add(s)
		if l.full() {
			l.cut(encode)
		}
	}
}

// leap takes many ticks as one, which is what a meter that saw them is after them.
func (l *life) leap(at uint64, leap *usage.Leap, encode func(batch.Ticks) []byte) {
	after := leap.After
	last := max(after.Totals.Next, 1) - 1
	fresh := at > l.seen && after.Totals.Next > l.next
	if fresh && l.damaged && leap.First > l.next {
		l.miss(leap.First-1, leap.From.Wall, encode)
	}
	if at > l.metered {
		l.meter.CatchUp(&after, nil, nil)
		l.blind = false
	}
	l.took(at, last)
	if fresh {
		l.account(last, after.Totals.At.Wall)
		after.Limits, after.Start = usage.Limits{}, usage.Time{}
		l.pending.leaps = append(l.pending.leaps, after)
		if l.full() {
			l.cut(encode)
		}
	}
}

// took notes that a record is read, of ticks up to last.
func (l *life) took(at, last uint64) {
	l.metered = max(l.metered, at)
	if at > l.seen {
		l.seen, l.absent = at, 0
		l.reached = max(l.reached, last+1)
	}
}

// account has what is pending account for the ticks up to last, which was at the given time.
func (l *life) account(last uint64, wall int64) {
	if l.pending.empty() {
		l.pending.first = l.next
	}
	l.next, l.damaged, l.sentAt = last+1, false, wall
}

// enter takes a transition.
func (l *life) enter(at uint64, moment usage.Time, state usage.State) {
	if at > l.metered {
		l.meter.Enter(moment, state, nil)
		l.metered = at
	}
	if at <= l.seen {
		return
	}
	l.seen, l.absent = at, 0
	if l.reached >= l.next { // or the receiver has it
		l.pending.entered = append(l.pending.entered, batch.Entered{At: moment, State: state})
	}
}

// maxLeaps is how many leaps a batch has before it is cut: each takes some 200 bytes, and stands for a second or more.
const maxLeaps = 60

// full says whether a batch ends with the tick before next.
func (l *life) full() bool {
	if len(l.pending.leaps) > 0 {
		return len(l.pending.leaps) >= maxLeaps || uint64(l.pending.n) >= l.size
	}
	return len(l.pending.entered) >= maxEntered || (l.pending.first+l.phase)/l.size != (l.next+l.phase)/l.size
}

// cut makes a batch of what is pending.
func (l *life) cut(encode func(batch.Ticks) []byte) {
	if l.pending.empty() {
		return
	}
	b := &step{kind: toSend, first: l.pending.first, last: l.next - 1, payload: encode(l.pending.ticks())}
	if !l.blind && l.meter.Totals.Next == l.next {
		totals := l.meter.Totals
		b.totals = &totals
	}
	l.pending.reset()
	l.put(b)
}

// miss tells that the ticks up to last are lost, after what came before them.
func (l *life) miss(last uint64, resume int64, encode func(batch.Ticks) []byte) {
	l.cut(encode)
	first := l.next
	l.next = last + 1
	l.meter.Skip(l.next)
	l.put(&step{kind: toMiss, first: first, last: last, gap: [2]int64{l.sentAt, resume}})
}

// end takes the end of the life: what is left is sent, and then what it used in all.
func (l *life) end(at uint64, e usage.End, encode func(batch.Ticks) []byte) {
	if at <= l.seen || l.ended {
		return
	}
	l.ending = at
	if e.Last.Seq >= l.next && e.Last.Seq < e.Final.Next && l.consistent(&e) {
		l.tick(at, e.Last, encode)
	}
	l.cut(encode)
	if last := max(e.Final.Next, l.next, 1) - 1; last >= l.next {
		l.miss(last, e.Final.At.Wall, encode)
	}
	l.seen, l.metered, l.ended, l.ending = at, max(at, l.metered), true, 0
	l.put(&step{kind: toStop, last: l.next - 1, end: &e})
}

// consistent says whether the last tick, after all that the meter saw, comes to no more than the end says. Else ticks
// before it are lost, time would be laid on the wrong state, and what is laid stays: then the end's totals alone count.
func (l *life) consistent(e *usage.End) bool {
	trial := l.meter
	trial.Add(e.Last, nil, nil)
	totals := trial.Final()
	for q := range totals.Of {
		if e.Final.Of[q].Less(totals.Of[q]) {
			return false
		}
	}
	return true
}

// put appends a step, with where the life is after it. The record of an end is not done with before its last step is: else
// a life whose last ticks were acknowledged, and no more, would pass over its end and stay open.
func (l *life) put(s *step) {
	s.then = mark{Opened: true, Next: l.next, Meter: l.meter, Metered: l.metered, Seen: l.seen, Blind: l.blind}
	if l.ending != 0 {
		s.then.Seen = min(l.seen, l.ending-1)
	}
	l.outbox = append(l.outbox, s)
}
