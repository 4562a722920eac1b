package shipper

import (
	"context"
	"time"

	"github.com/unkeyed/unkey/go/deploy/metald/internal/metering/record"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/metering/usage"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/metering/wal"
)

// feed reads the log, one entry at a time: the next is read when the one before was taken, as its body is good no longer.
type feed struct {
	entries chan fed
	taken   chan struct{}
	done    chan struct{} // closed when nothing comes any more
	stop    func()        // and wait
	ended   bool          // nothing comes any more
}

type fed struct {
	entry wal.Entry
	err   error
}

func (e *engine) newFeed(ctx context.Context, after uint64) *feed {
	ctx, cancel := context.WithCancel(ctx)
	f := &feed{entries: make(chan fed), taken: make(chan struct{}), done: make(chan struct{})}
	f.stop = func() { cancel(); <-f.done }
	reader := e.cfg.Log.NewReader(after)
	go func() {
		defer close(f.done)
		defer reader.Close()
		for {
			entry, err := reader.Next(ctx)
			select {
			case f.entries <- fed{entry, err}:
			case <-ctx.Done():
				return
			}
			if err != nil {
				return
			}
			select {
			case <-f.taken:
			case <-ctx.Done():
				return
			}
		}
	}()
	return f
}

// rewind reads the log from the first record that some life needs.
func (e *engine) rewind(ctx context.Context) {
	if e.feed != nil {
		e.feed.stop()
	}
	after := e.pos
	for _, l := range e.lives {
		if l.parked == 0 {
			after = min(after, l.seen)
		}
	}
	e.decoder = record.Decoder{}
	e.record, e.pace = span{after, after}, pace{}
	e.feed = e.newFeed(ctx, after)
}

// take takes what the log has next.
func (e *engine) take(in fed) {
	if in.err != nil {
		e.feed.ended = true
		return
	}
	defer func() {
		select {
		case e.feed.taken <- struct{}{}:
		case <-e.feed.done: // the shipper ends
		}
	}()
	if loss := in.entry.Lost; loss != nil {
		if loss.Last > e.told {
			e.cfg.Logger.Warn("records of the log of metering are lost; their ticks are told as gaps", "records", loss.String())
		} // else they were acknowledged, and are only missed because the receiver lost them
		e.damage(loss.Last)
		e.pos = max(e.pos, loss.Last)
		return
	}
	e.record = span{in.entry.First, in.entry.Seq}
	var sink record.Sink = taker{e}
	if in.entry.Known {
		sink = deaf{}
	}
	if err := e.decoder.Decode(in.entry.Type, in.entry.Body, sink); err != nil {
		e.cfg.Logger.Error("a record of the log of metering cannot be read; its ticks are told as gaps", "record", in.entry.Seq, "error", err)
		e.damage(in.entry.Seq)
	}
	e.pos = max(e.pos, in.entry.Seq)
}

// damage notes that records up to last are missing.
func (e *engine) damage(last uint64) {
	e.decoder.Lost()
	for _, l := range e.lives {
		if l.seen < last {
			l.damaged = true
		}
	}
}

// taker takes what a record says.
type taker struct{ *engine }

// Table finds the lives whose beginning or end is lost.
func (t taker) Table(_ usage.Time, open []record.Open) {
	living := make(map[uint64]bool, len(open))
	for i := range open {
		living[open[i].Life.Incarnation.Epoch] = true
		l := t.add(open[i].Life)
		if l != nil {
			l.damaged = true
		} else if l = t.lives[open[i].Life.Incarnation.Epoch]; l == nil || !l.blind || t.record.last <= l.metered {
			continue
		}
		l.meter, l.metered, l.blind = open[i].Meter, t.record.last, false // it has what was missed
	}
	for epoch, l := range t.lives {
		if living[epoch] || l.ended || l.epilogue != nil || l.parked != 0 || t.record.last <= l.seen {
			l.absent = 0
			continue
		}
		if l.absent++; l.absent < 3 { // its end may be in the record that comes next
			continue
		}
		last := usage.Sample{At: l.meter.Totals.At, Seq: l.meter.Totals.Next}
		l.end(t.record.last, usage.End{Life: l.Life, Last: last, Final: l.meter.Totals, Reason: "end-not-recorded"}, t.encode)
		t.enqueue(l)
	}
}

// Begin opens a life.
func (t taker) Begin(l usage.Life) { t.add(l) }

// add returns a life that was not known; nil where it was.
func (e *engine) add(about usage.Life) *life {
	epoch := about.Incarnation.Epoch
	if _, done := e.done[epoch]; done || e.lives[epoch] != nil {
		return nil
	}
	at := mark{Meter: *about.Meter(), Metered: e.record.last, Seen: e.record.last}
	if s, ok := e.sessions[epoch]; ok && s.incarnation == about.Incarnation {
		at.Opened, at.Next, at.Chain = true, s.next, s.chain
	}
	l := newLife(about, at, e.cfg.BatchTicks)
	l.dirty = true
	e.lives[epoch] = l
	return l
}

// with calls f with a life that has not come to rest.
func (t taker) with(epoch uint64, f func(*life)) {
	if l := t.lives[epoch]; l != nil && l.parked == 0 {
		f(l)
		t.enqueue(l)
	}
}

// Enter takes a transition.
func (t taker) Enter(epoch uint64, at usage.Time, state usage.State) {
	t.with(epoch, func(l *life) { l.enter(t.record.last, at, state) })
}

// Sample takes a tick.
func (t taker) Sample(epoch uint64, s usage.Sample) {
	t.paced(s.At.Wall)
	t.with(epoch, func(l *life) { l.tick(t.record.last, s, t.encode) })
}

// Thin takes many ticks as one.
func (t taker) Thin(epoch uint64, leap usage.Leap) {
	t.paced(leap.After.Totals.At.Wall)
	t.with(epoch, func(l *life) { l.leap(t.record.last, &leap, t.encode) })
}

// End takes the end of a life.
func (t taker) End(end usage.End) {
	if l := t.add(end.Life); l != nil {
		l.acked.Seen, l.seen = t.record.first-1, t.record.first-1 // it begins and ends with this one
		l.damaged = true
	}
	t.with(end.Life.Incarnation.Epoch, func(l *life) { l.end(t.record.last, end, t.encode) })
}

// Signed is no news: the shipper had it first.
func (t taker) Signed(record.Signature) {}

// deaf takes what is known.
type deaf struct{}

func (deaf) Table(usage.Time, []record.Open)       {}
func (deaf) Begin(usage.Life)                      {}
func (deaf) Enter(uint64, usage.Time, usage.State) {}
func (deaf) Sample(uint64, usage.Sample)           {}
func (deaf) Thin(uint64, usage.Leap)               {}
func (deaf) End(usage.End)                         {}
func (deaf) Signed(record.Signature)               {}

// pace keeps old ticks from being sent as fast as the log can be read.
type pace struct {
	record uint64
	wall   int64 // ns since 1970 of the last tick
	next   time.Time
}

// slack is how far the pace lets reading fall behind before it is lost time, and apart how far ticks can be to be ticks
// of one stretch.
const (
	slack = time.Second
	apart = 10 * time.Second
)

// paced notes a tick, and when the record after it may be read.
func (e *engine) paced(wall int64) {
	p := &e.pace
	if p.record == e.record.last {
		return
	}
	passed := time.Duration(wall - p.wall)
	if passed < 0 || passed > apart {
		passed = 0
	}
	p.record, p.wall = e.record.last, wall
	if late := time.Now().Add(-slack); p.next.Before(late) {
		p.next = late
	}
	p.next = p.next.Add(passed / time.Duration(e.cfg.CatchUp))
	e.readFrom = p.next
}
