package shipper

import (
	"context"
	"sync"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/proto"

	"github.com/unkeyed/unkey/go/deploy/metald/internal/metering/batch"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/metering/record"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/metering/usage"
)

// engine is a running shipper. All of it is for the goroutine of run; requests run in others, and their answers come
// through a channel.
type engine struct {
	*Shipper
	kept   *kept
	counts Status
	signer *signer

	lives    map[uint64]*life // by epoch
	done     map[uint64]uint64
	newlyEnd map[uint64]uint64 // of done: not yet kept
	ends     []usage.End       // not yet kept
	sessions map[uint64]session
	// lostSince is from when on, in ns since 1970, the receiver may have lost what it acknowledged; 0: it has not.
	lostSince int64
	pos       uint64 // the last record that was read
	told      uint64 // what the log was told to forget

	feed     *feed
	decoder  record.Decoder
	record   span // that is being taken
	readFrom time.Time
	pace     pace

	calls    sync.WaitGroup
	answers  chan answer
	greets   chan greeting
	beats    chan error
	queue    []*life // those with a step to send, in order
	flying   int     // steps under way
	steps    int     // in all outboxes
	crowded  int     // lives that have more than one batch in theirs
	ready    bool    // the receiver was greeted
	greeting bool    // a greeting is under way
	beating  bool
	beatAt   time.Time
	retryAt  time.Time
	fails    int // in a row
}

// crowd is how many steps may wait while the log is read on.
const crowd = 4

func newEngine(s *Shipper, k *kept) (*engine, error) {
	lives, done, pos, err := k.load()
	if err != nil {
		return nil, err
	}
	key, err := k.key()
	if err != nil {
		return nil, err
	}
	e := &engine{
		Shipper: s, kept: k, lives: map[uint64]*life{}, done: done, newlyEnd: map[uint64]uint64{}, pos: pos,
		answers: make(chan answer), greets: make(chan greeting), beats: make(chan error),
	}
	e.signer = &signer{Shipper: s, kept: k, key: key}
	for _, l := range lives {
		e.lives[l.Life.Incarnation.Epoch] = newLife(l.Life, l.Acked, s.cfg.BatchTicks)
	}
	ends, err := k.ended(func(end *usage.End) bool { return e.lives[end.Life.Incarnation.Epoch] != nil })
	for i := range ends {
		e.lives[ends[i].Life.Incarnation.Epoch].epilogue = &ends[i]
	}
	return e, err
}

// run is Shipper.Run.
func (e *engine) run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	e.rewind(ctx)
	defer func() {
		cancel()
		e.feed.stop()
		e.drain(ctx)
	}()
	save := time.NewTicker(e.cfg.Save)
	defer save.Stop()
	wake := time.NewTimer(time.Hour)
	defer wake.Stop()
	for ctx.Err() == nil {
		e.dispatch(ctx)
		e.publishSoon()
		wake.Reset(e.idle())
		var entries chan fed
		if e.wants() {
			entries = e.feed.entries
		}
		select {
		case in := <-entries:
			e.take(in)
		case a := <-e.answers:
			e.answered(ctx, a)
		case g := <-e.greets:
			e.greeted(ctx, g)
		case err := <-e.beats:
			e.beaten(err)
		case <-save.C:
			if err := e.save(ctx); err != nil {
				e.cfg.Logger.Error("what the billing service acknowledged cannot be kept; after a crash it is sent again", "error", err)
			}
		case <-wake.C:
		case <-ctx.Done():
		}
	}
	return nil
}

// drain waits for the requests under way, which end with their context, and keeps what they came to.
func (e *engine) drain(ctx context.Context) {
	for e.flying > 0 || e.greeting || e.beating {
		select {
		case a := <-e.answers:
			e.flying--
			if a.verdict == accepted {
				e.advance(e.lives[a.epoch], a)
			}
		case <-e.greets:
			e.greeting = false
		case <-e.beats:
			e.beating = false
		}
	}
	e.calls.Wait()
	if err := e.save(ctx); err != nil {
		e.cfg.Logger.Error("what the billing service acknowledged cannot be kept; it is sent again", "error", err)
	}
	e.publish()
}

// wants says whether the next record may be taken: the receiver is there, and little waits for it.
func (e *engine) wants() bool {
	if !e.ready || e.greeting || e.feed.ended || time.Now().Before(e.readFrom) {
		return false
	}
	return e.crowded == 0 && e.steps < crowd*e.cfg.InFlight
}

// count keeps steps and crowded, after the outbox of a life became another.
func (e *engine) count(l *life) {
	batches, crowded := 0, 0
	for _, s := range l.outbox {
		if s.kind == toSend {
			batches++
		}
	}
	if batches > 1 {
		crowded = 1
	}
	e.steps += len(l.outbox) - l.steps
	e.crowded += crowded - l.crowded
	l.steps, l.crowded = len(l.outbox), crowded
}

// idle is how long there is nothing to do by itself.
func (e *engine) idle() time.Duration {
	next := e.beatAt
	if !e.ready && !e.greeting && e.flying == 0 {
		next = e.retryAt
	}
	if e.ready && e.readFrom.Before(next) && time.Now().Before(e.readFrom) {
		next = e.readFrom
	}
	return max(time.Until(next), time.Millisecond)
}

// dispatch sends what may be sent now.
func (e *engine) dispatch(ctx context.Context) {
	now := time.Now()
	if e.greeting {
		return
	}
	if !e.ready {
		if e.flying == 0 && !e.beating && !now.Before(e.retryAt) {
			e.greet(ctx)
		}
		return
	}
	if !e.beating && !now.Before(e.beatAt) {
		e.beat(ctx)
	}
	for e.flying < e.cfg.InFlight && len(e.queue) > 0 {
		l := e.queue[0]
		e.queue = e.queue[1:]
		l.queued = false
		e.start(ctx, l)
	}
}

// start sends the first step of a life, after the opening of it where it needs one.
func (e *engine) start(ctx context.Context, l *life) {
	if l.busy || l.parked != 0 || len(l.outbox) == 0 {
		return
	}
	st := l.outbox[0]
	if !l.acked.Opened {
		st = &step{kind: toStart}
	}
	l.busy = true
	e.flying++
	about, chain := l.Life, l.acked.Chain
	e.calls.Go(func() { e.answers <- e.send(ctx, about, st, chain) })
}

// enqueue has the steps of a life sent.
func (e *engine) enqueue(l *life) {
	e.count(l)
	if !l.queued && !l.busy && l.parked == 0 && len(l.outbox) > 0 {
		l.queued = true
		e.queue = append(e.queue, l)
	}
}

// answered takes what came of a step.
func (e *engine) answered(ctx context.Context, a answer) {
	l := e.lives[a.epoch]
	l.busy = false
	e.flying--
	switch a.verdict {
	case accepted:
		e.fails = 0
		e.advance(l, a)
	case unopened:
		l.acked.Opened, l.dirty = false, true
		e.strike(l, a)
	case broken:
		e.counts.ChainBreaks++
		e.cfg.Logger.Error("the billing service has another hash chain of a VM's batches: one of both was changed", "vm", l.Incarnation.VM, "epoch", a.epoch,
			"first", a.step.first, "last", a.step.last, "chain", l.acked.Chain[:], "error", a.err)
		e.ready = false
		e.strike(l, a)
	case astray:
		e.ready = false
		e.strike(l, a)
	case refused:
		e.refuse(ctx, l, a)
	case failed:
		e.failed(a.err)
		e.suspect(l, a)
	}
	e.enqueue(l)
}

// advance notes that a step is at the receiver.
func (e *engine) advance(l *life, a answer) {
	l.strikes = 0
	l.dirty = true
	if a.step.kind == toStart {
		l.acked.Opened = true
		return
	}
	l.acked = a.step.then
	l.acked.Chain = a.chain
	l.outbox = l.outbox[1:]
	switch a.step.kind {
	case toSend:
		e.counts.Batches++
		if a.partly {
			e.counts.SetAside++
		}
	case toMiss:
		e.counts.GapTicks += a.step.last - a.step.first + 1
	case toStop:
		e.count(l)
		epoch := l.Incarnation.Epoch
		e.ends = append(e.ends, *a.step.end)
		delete(e.lives, epoch)
		e.done[epoch], e.newlyEnd[epoch] = l.acked.Seen, l.acked.Seen
	}
}

// maxStrikes is how often a step may bring the life no further before it is taken for refused.
const maxStrikes = 5

func (e *engine) strike(l *life, a answer) {
	if l.strikes++; l.strikes >= maxStrikes {
		l.strikes = 0
		e.refuse(context.Background(), l, a)
	}
}

// maxFaults is how often a request may be answered with an internal error, by a receiver that greets well in between.
const maxFaults = 8

// suspect has a life rest whose request the receiver fails at again and again, so that the others go on.
func (e *engine) suspect(l *life, a answer) {
	if connect.CodeOf(a.err) != connect.CodeInternal || !connect.IsWireError(a.err) {
		return
	}
	if l.strikes++; l.strikes >= maxFaults {
		l.strikes = 0
		e.cfg.Logger.Error("the billing service fails at a request of a VM again and again; what it uses stays in the log, and is tried again later", append(describe(l.Incarnation), "request", a.step.kind.String(), "error", a.err)...)
		e.park(l)
	}
}

// refuse deals with a step that the receiver will never take: a batch is kept as evidence and told as lost, so that the
// life goes on, and a life of which anything else is refused rests.
func (e *engine) refuse(ctx context.Context, l *life, a answer) {
	about := []any{"vm", l.Incarnation.VM, "epoch", a.epoch, "request", a.step.kind.String(), "first", a.step.first, "last", a.step.last, "error", a.err}
	if a.step.kind != toSend {
		e.cfg.Logger.Error("the billing service refuses a VM; what it uses stays in the log, and is sent when it no more does", about...)
		e.park(l)
		return
	}
	request, err := proto.Marshal(batchToProto(l.Life, a.step, l.acked.Chain))
	kept := false
	if err == nil {
		kept, err = e.kept.refuse(a.epoch, a.step.first, request)
	}
	if err != nil {
		e.cfg.Logger.Error("a batch that the billing service refuses cannot be kept; its VM rests", append(about, "cause", err)...)
		e.park(l)
		return
	}
	e.counts.Quarantined++
	e.cfg.Logger.Error("the billing service refuses a batch; it is told as lost, and its totals come with the next", append(about, "kept", kept)...)
	l.outbox[0] = &step{kind: toMiss, first: a.step.first, last: a.step.last, gap: [2]int64{l.acked.Meter.Totals.At.Wall, a.step.then.Meter.Totals.At.Wall}, then: a.step.then}
}

// park lets a life rest: nothing of it is sent, and the log keeps it.
func (e *engine) park(l *life) {
	l.reset()
	l.parked = time.Now().UnixNano()
	l.queued = false
	e.count(l)
}

// failed notes that the receiver is not there. It is greeted after a pause.
func (e *engine) failed(err error) {
	e.counts.Retries++
	if e.counts.DownSince.IsZero() {
		e.counts.DownSince = time.Now()
		e.cfg.Logger.Warn("the billing service does not answer; what is metered stays in the log", "error", err)
	}
	if !e.ready && time.Now().Before(e.retryAt) {
		return // of requests that were under way together, one counts
	}
	e.ready = false
	e.retryAt = time.Now().Add(pause(e.fails, e.cfg.FirstRetry, e.cfg.LastRetry))
	if after := time.Unix(0, e.after.Load()); after.After(e.retryAt) {
		e.retryAt = after
	}
	e.fails++
}

// save keeps what was acknowledged, and tells the log what it may forget. Where ctx has ended it begins nothing anew.
func (e *engine) save(ctx context.Context) error {
	if e.record.last >= e.pos {
		e.conclude()
	}
	c := change{done: e.newlyEnd, ended: e.ends, pos: e.pos}
	floor := e.pos
	var saved []*life
	for _, l := range e.lives {
		if e.record.last >= e.pos { // nothing is read again
			e.rest(l)
		}
		floor = min(floor, l.acked.Seen)
		if l.dirty {
			c.lives = append(c.lives, keptLife{l.Life, l.acked})
			saved = append(saved, l)
		}
	}
	for epoch, at := range e.done {
		if _, fresh := e.newlyEnd[epoch]; at <= e.told && !fresh {
			c.forgotten = append(c.forgotten, epoch)
		}
	}
	if err := e.kept.save(c); err != nil {
		return err
	}
	for _, l := range saved {
		l.dirty = false
	}
	for _, epoch := range c.forgotten {
		delete(e.done, epoch)
	}
	e.newlyEnd, e.ends = map[uint64]uint64{}, nil
	e.wakeParked(ctx)
	if floor <= e.told {
		return nil
	}
	if err := e.cfg.Log.Ack(floor); err != nil {
		return err
	}
	e.told = floor
	return nil
}

// restAfter is how many records a life may be behind of which nothing waits.
const restAfter = 600

// rest moves a life of which nothing waits to where the log was read, so that it does not hold the log.
func (e *engine) rest(l *life) {
	if l.busy || l.parked != 0 || len(l.outbox) > 0 || !l.pending.empty() || len(l.pending.entered) > 0 || l.reached < l.next {
		return
	}
	if l.acked.Seen+restAfter < e.pos && l.acked.Next == l.next && l.seen <= e.pos {
		l.acked.Meter, l.acked.Metered, l.acked.Seen, l.acked.Blind, l.dirty = l.meter, e.pos, e.pos, l.blind, true
		l.metered, l.seen = max(l.metered, e.pos), max(l.seen, e.pos)
	}
}

// wakeParked tries lives again that rested for long enough.
func (e *engine) wakeParked(ctx context.Context) {
	woken := false
	for _, l := range e.lives {
		if l.parked != 0 && time.Now().UnixNano()-l.parked > int64(e.cfg.Parked) && ctx.Err() == nil {
			l.parked, woken = 0, true
		}
	}
	if woken {
		e.rewind(ctx)
	}
}

func (e *engine) encode(t batch.Ticks) []byte { return e.codec.Encode(t) }

// publishSoon makes Status anew where the last is old.
func (e *engine) publishSoon() {
	if time.Since(e.seenAt) > 100*time.Millisecond {
		e.publish()
	}
}

// span is the records of the log that something is in: many where it was made coarser.
type span struct{ first, last uint64 }

// describe is what a life is called in the log.
func describe(i usage.Incarnation) []any { return []any{"vm", i.VM, "epoch", i.Epoch} }
