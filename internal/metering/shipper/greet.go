package shipper

import (
	"context"
	"time"

	"connectrpc.com/connect"

	pb "github.com/unkeyed/unkey/go/deploy/metald/gen/billing/v1"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/metering/batch"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/metering/usage"
)

// session is what the receiver has of a life.
type session struct {
	incarnation usage.Incarnation
	next        uint64
	chain       batch.Hash
	wall        int64 // ns since 1970, of its totals
}

// greeting is what came of one.
type greeting struct {
	sessions map[uint64]session // by epoch
	err      error
}

// greet asks what the receiver has, and sends it the totals of all lives, ahead of their history.
func (e *engine) greet(ctx context.Context) {
	e.greeting = true
	e.calls.Go(func() { e.greets <- e.hello(ctx) })
}

func (e *engine) hello(ctx context.Context) (g greeting) {
	if g.sessions, g.err = e.ask(ctx); g.err != nil {
		return g
	}
	accounts := e.cfg.Accounts()
	for i := range accounts {
		l := accounts[i].Life
		if g.sessions[l.Incarnation.Epoch].incarnation == l.Incarnation {
			continue
		}
		a := e.send(ctx, l, &step{kind: toStart}, batch.Hash{})
		switch a.verdict {
		case failed:
			g.err = a.err
			return g
		case accepted:
			g.sessions[l.Incarnation.Epoch] = session{incarnation: l.Incarnation}
		default:
			e.cfg.Logger.Warn("the billing service does not open a VM", append(describe(l.Incarnation), "error", a.err)...)
		}
	}
	g.err = e.heartbeat(ctx, accounts)
	return g
}

func (e *engine) ask(ctx context.Context) (map[uint64]session, error) {
	ctx, cancel := context.WithTimeout(ctx, e.cfg.Timeout)
	defer cancel()
	resp, err := e.client.GetActiveBillingSessions(ctx, connect.NewRequest(&pb.GetActiveBillingSessionsRequest{InstanceId: e.cfg.InstanceID}))
	if err != nil {
		return nil, err
	}
	sessions := map[uint64]session{}
	for _, s := range resp.Msg.GetSessions() {
		known := session{incarnation: incarnationFromProto(s.GetIncarnation()), next: s.GetNextSeq(), wall: s.GetTotals().GetAt().GetWallNs()}
		copy(known.chain[:], s.GetChain())
		sessions[known.incarnation.Epoch] = known
	}
	return sessions, nil
}

// greeted goes on with what the receiver expects.
func (e *engine) greeted(ctx context.Context, g greeting) {
	e.greeting = false
	if g.err != nil {
		e.failed(g.err)
		return
	}
	if !e.counts.DownSince.IsZero() {
		e.cfg.Logger.Info("the billing service answers again", "away", time.Since(e.counts.DownSince).Round(time.Second).String())
		e.counts.DownSince = time.Time{}
	}
	e.counts.Heartbeats++
	e.ready, e.sessions = true, g.sessions
	e.beatAt = time.Now().Add(e.cfg.Heartbeat)
	moved := false
	for _, l := range e.lives {
		moved = e.reconcile(l) || moved
	}
	moved = e.revive() || moved
	if moved {
		e.rewind(ctx)
	}
	for _, l := range e.lives {
		e.enqueue(l)
	}
}

// reconcile brings a life to where the receiver has it, and says whether the log has to be read again for it.
func (e *engine) reconcile(l *life) bool {
	s, ok := e.sessions[l.Incarnation.Epoch]
	if !ok || s.incarnation != l.Incarnation {
		l.acked.Opened = false // it is closed, or was never opened: opening it again changes nothing
		return false
	}
	l.acked.Opened = true
	if s.next == l.acked.Next {
		if s.chain != l.acked.Chain {
			e.cfg.Logger.Error("the billing service has another hash chain of a VM's batches; it goes on from the service's", append(describe(l.Incarnation), "tick", s.next, "ours", l.acked.Chain[:], "theirs", s.chain[:])...)
			l.acked.Chain, l.dirty = s.chain, true
		}
		return false
	}
	if s.next < l.acked.Next {
		e.cfg.Logger.Warn("the billing service lost ticks that it had acknowledged; they are sent again as far as the log has them", append(describe(l.Incarnation), "acknowledged", l.acked.Next, "expected", s.next)...)
		if e.lostSince == 0 || s.wall < e.lostSince {
			e.lostSince = s.wall
		}
	}
	l.expect(s.next, s.chain)
	return l.parked == 0
}

// revive takes up lives again that had ended, where the receiver has them open, or may have lost them as it lost ticks
// of others. It says whether there are any.
func (e *engine) revive() bool {
	const margin = int64(10 * time.Minute) // of totals that were announced ahead
	for epoch, s := range e.sessions {
		if _, done := e.done[epoch]; done && (e.lostSince == 0 || s.wall < e.lostSince) {
			e.lostSince = s.wall
		}
	}
	since := e.lostSince
	list, err := e.kept.ended(func(end *usage.End) bool {
		inc := end.Life.Incarnation
		open := e.sessions[inc.Epoch].incarnation == inc
		return e.lives[inc.Epoch] == nil && (open || since != 0 && end.Final.At.Wall >= since-margin)
	})
	if err != nil {
		e.cfg.Logger.Error("what is kept of lives that ended cannot be read", "error", err)
	}
	if e.lostSince = 0; since != 0 {
		e.done = map[uint64]uint64{} // what the log has of lives that ended is sent again as well
	}
	for i := range list {
		end := &list[i]
		at := mark{Meter: *end.Life.Meter(), Metered: e.pos, Blind: true}
		s, open := e.sessions[end.Life.Incarnation.Epoch]
		if open = open && s.incarnation == end.Life.Incarnation; open {
			at.Opened, at.Next, at.Chain = true, s.next, s.chain
		}
		l := newLife(end.Life, at, e.cfg.BatchTicks)
		l.epilogue, l.damaged, l.dirty = end, true, true
		e.lives[end.Life.Incarnation.Epoch] = l
		delete(e.done, end.Life.Incarnation.Epoch)
	}
	return len(list) > 0 || since != 0
}

// conclude ends lives that were taken up again and whose end the log has no more, once the log was read.
func (e *engine) conclude() {
	for _, l := range e.lives {
		if l.epilogue != nil && !l.ended && l.parked == 0 {
			l.end(max(e.pos, l.seen+1), *l.epilogue, e.encode)
			e.enqueue(l)
		}
	}
}
