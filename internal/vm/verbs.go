package vm

import (
	"cmp"
	"context"
	"errors"
	"fmt"

	"github.com/unkeyed/unkey/go/deploy/metald/internal/backend/types"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/metering/usage"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/vm/lifecycle"
)

// Boot starts the guest; after a shutdown it starts a new incarnation.
func (m *Manager) Boot(ctx context.Context, id types.VMID) (Info, error) {
	return m.verb(ctx, id, func(opCtx context.Context, e *entry) (after, error) {
		if _, err := e.next(lifecycle.Boot); err != nil {
			return nil, err
		}
		return e.keep, e.boot(opCtx)
	})
}

// Pause stops the guest's vCPUs.
func (m *Manager) Pause(ctx context.Context, id types.VMID) (Info, error) {
	return m.verb(ctx, id, func(opCtx context.Context, e *entry) (after, error) {
		if _, err := e.next(lifecycle.Pause); err != nil {
			return nil, err
		}
		return e.keep, e.drive(opCtx, lifecycle.Pause, types.Machine.Pause)
	})
}

// Resume lets a paused guest go on.
func (m *Manager) Resume(ctx context.Context, id types.VMID) (Info, error) {
	return m.verb(ctx, id, func(opCtx context.Context, e *entry) (after, error) {
		if _, err := e.next(lifecycle.Resume); err != nil {
			return nil, err
		}
		return e.keep, e.drive(opCtx, lifecycle.Resume, types.Machine.Resume)
	})
}

// verb has the runner of a VM do op and returns what the VM is after it.
//
// What op observed of the VMM is saved after the caller was answered: after a crash the VMM itself says whether
// it runs or is paused, so nothing that was answered is lost.
func (m *Manager) verb(ctx context.Context, id types.VMID, op func(context.Context, *entry) (after, error)) (Info, error) {
	e, err := m.lookup(id)
	if err != nil {
		return Info{}, err
	}
	err = e.do(ctx, func(opCtx context.Context) (after, error) {
		opCtx, done, err := e.giveWay(opCtx)
		if err != nil {
			return nil, err
		}
		defer done()
		then, err := op(opCtx, e)
		if err != nil && context.Cause(opCtx) == errForced {
			err = errForced
		}
		return then, err
	})
	return *e.snapshot.Load(), err
}

// force is verb for what ends the VMM: it does not wait for one that keeps another verb waiting.
func (m *Manager) force(ctx context.Context, id types.VMID, op func(context.Context, *entry) (after, error)) (Info, error) {
	e, err := m.lookup(id)
	if err != nil {
		return Info{}, err
	}
	err = e.do(ctx, func(opCtx context.Context) (after, error) { return op(opCtx, e) }, e.startForce())
	return *e.snapshot.Load(), err
}

var errForced = types.Errorf(types.KindAborted, "another request ended the VMM by force")

// startForce cuts short the verb under way, and has those in the queue give way until the function returned is
// called.
func (e *entry) startForce() (end func()) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.forces++
	if e.cut != nil {
		e.cut(errForced)
	}
	return func() {
		e.mu.Lock()
		defer e.mu.Unlock()
		e.forces--
	}
}

// giveWay begins a verb that a forced one may cut short.
func (e *entry) giveWay(ctx context.Context) (context.Context, func(), error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.forces > 0 {
		return ctx, nil, errForced
	}
	ctx, e.cut = context.WithCancelCause(ctx)
	return ctx, func() {
		e.mu.Lock()
		defer e.mu.Unlock()
		e.cut(nil)
		e.cut = nil
	}, nil
}

// boot launches a VMM if there is none, and starts its guest.
func (e *entry) boot(ctx context.Context) error {
	if e.live.Load() == nil {
		if err := e.relaunch(ctx); err != nil {
			return err
		}
	}
	err := e.bootGuest(ctx)
	if l := e.live.Load(); err != nil && e.rec.State == lifecycle.Shutdown && l != nil {
		return errors.Join(err, e.finish(context.WithoutCancel(ctx), l, nil))
	}
	return err
}

// bootGuest starts the guest once it is sure to be metered.
func (e *entry) bootGuest(ctx context.Context) error {
	readyCtx, cancel := context.WithTimeout(ctx, readyTimeout)
	defer cancel()
	if err := e.m.cfg.Metering.Ready(readyCtx, e.id); err != nil {
		return types.Errorf(types.KindUnavailable, "VM %s cannot be metered, so it is not booted; readyz says what its log lacks: %w", e.id, err)
	}
	e.m.cfg.Metering.Enter(e.id, usage.Booting)
	return e.drive(ctx, lifecycle.Boot, types.Machine.Boot)
}

// relaunch gives a VM that was shut down the VMM of its next incarnation.
func (e *entry) relaunch(ctx context.Context) error {
	b, err := e.backend()
	if err != nil {
		return err
	}
	if err := b.usable(ctx, ""); err != nil {
		return err
	}
	f, err := e.m.resolveAgain(e.rec)
	if err != nil {
		return err
	}
	if err := e.m.stillHeld(e.id, e.rec.Volumes); err != nil {
		return err
	}
	machine, err := e.launch(ctx, f)
	if err != nil {
		e.keep()
		return err
	}
	e.attach(machine)
	return nil
}

// drive makes the machine do what event asks. The machine answers yes when it has seen itself in the new state; after
// any other answer the manager looks for itself.
func (e *entry) drive(ctx context.Context, event lifecycle.Event, do func(types.Machine, context.Context) error) error {
	want, err := e.next(event)
	if err != nil {
		return err
	}
	l := e.live.Load()
	if l == nil {
		return types.Errorf(types.KindUnavailable, "VM %s has no VMM", e.id)
	}
	return e.command(ctx, l, event, want, func(ctx context.Context) error { return do(l.machine, ctx) })
}

// command gives a machine a command that leads to want, and looks at what became of it where it did not succeed.
// A VMM that does not answer is reported in Health, and looked at again until it does.
func (e *entry) command(ctx context.Context, l *live, event lifecycle.Event, want lifecycle.State, give func(context.Context) error) error {
	giveCtx, cancel := context.WithTimeout(ctx, verbTimeout)
	defer cancel()
	err := give(giveCtx)
	if err == nil {
		e.sees(want)
		return nil
	}
	if ctx.Err() != nil {
		e.unanswered(l, event) // whether it was obeyed is for later to see
		return err
	}
	got, lookErr := e.look(ctx, l)
	switch {
	case got == lifecycle.Shutdown:
		e.observeExit(l)
		if k := types.KindOf(err); k == types.KindInvalid || k == types.KindPrecondition || k == types.KindExhausted {
			return err // it said why, and was ended for it
		}
		return types.Errorf(types.KindUnavailable, "VM %s: the VMM ended when asked to %s (%s)", e.id, event, l.how())
	case lookErr != nil:
		e.unanswered(l, event)
		return cmp.Or(err, lookErr)
	}
	e.sees(got)
	return err
}

// look asks a machine for its state. One whose VMM has ended is Shutdown.
func (e *entry) look(ctx context.Context, l *live) (lifecycle.State, error) {
	ctx, cancel := context.WithTimeout(ctx, lookTimeout)
	defer cancel()
	state, err := l.machine.State(ctx)
	select {
	case <-l.machine.Exited():
		return lifecycle.Shutdown, nil
	default:
		return state, err
	}
}

// sees enters a state that was observed. A VM that was shut down is not created again: its new VMM runs, or is
// none of it.
func (e *entry) sees(state lifecycle.State) {
	e.health = ""
	if state == lifecycle.Created && e.rec.State == lifecycle.Shutdown {
		return
	}
	if state != lifecycle.Created && e.rec.BootedAt.IsZero() {
		e.rec.BootedAt = e.m.cfg.Now()
	}
	e.m.cfg.Metering.Enter(e.id, metered(state))
	e.enter(state)
}

// unanswered reports a VMM that is alive and does not answer, and looks at it again later.
func (e *entry) unanswered(l *live, event lifecycle.Event) {
	e.health = fmt.Sprintf("its VMM did not answer when asked to %s; metald looks again every few seconds", event)
	e.publish()
	if !l.looking {
		l.looking = true
		e.later(retryAfter, l.ended, func() { e.lookAgain(l) })
	}
}

func (e *entry) lookAgain(l *live) {
	if l.looking = false; e.live.Load() != l || e.health == "" {
		return
	}
	state, err := e.look(e.m.opCtx, l)
	switch {
	case state == lifecycle.Shutdown:
		e.observeExit(l)
	case err != nil:
		l.looking = true
		e.later(retryAfter, l.ended, func() { e.lookAgain(l) })
	default:
		e.sees(state)
		e.keep()
	}
}

// how says for people how a VMM ended, once that was observed.
func (l *live) how() string {
	switch {
	case l.final == nil:
		return "and does not go away"
	case l.final.Exit.Detail == "":
		return l.final.Exit.Reason
	}
	return l.final.Exit.Reason + ": " + l.final.Exit.Detail
}
