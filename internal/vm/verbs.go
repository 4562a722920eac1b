package vm

import (
	"context"
	"errors"

	"github.com/unkeyed/unkey/go/deploy/metald/internal/backend/types"
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
		return e.keep, e.drive(opCtx, lifecycle.Pause, types.Machine.Pause)
	})
}

// Resume lets a paused guest go on.
func (m *Manager) Resume(ctx context.Context, id types.VMID) (Info, error) {
	return m.verb(ctx, id, func(opCtx context.Context, e *entry) (after, error) {
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
	err = e.do(ctx, launchTimeout, func(opCtx context.Context) (after, error) { return op(opCtx, e) })
	return *e.snapshot.Load(), err
}

// boot launches a VMM if there is none, and starts its guest.
func (e *entry) boot(ctx context.Context) error {
	if e.live.Load() == nil {
		if err := e.relaunch(ctx); err != nil {
			return err
		}
	}
	err := e.drive(ctx, lifecycle.Boot, types.Machine.Boot)
	if l := e.live.Load(); err != nil && e.rec.State == lifecycle.Shutdown && l != nil {
		return errors.Join(err, e.finish(context.WithoutCancel(ctx), l, nil))
	}
	return err
}

// relaunch gives a VM that was shut down the VMM of its next incarnation.
func (e *entry) relaunch(ctx context.Context) error {
	f, err := e.m.resolve(e.id, e.rec.Spec)
	if err != nil {
		return err
	}
	if err := e.m.stillHeld(e.id, f.volumes); err != nil {
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

// drive makes the machine do what event asks. The machine answers when it has seen itself in the new state.
func (e *entry) drive(ctx context.Context, event lifecycle.Event, do func(types.Machine, context.Context) error) error {
	want, err := e.next(event)
	if err != nil {
		return err
	}
	l := e.live.Load()
	if l == nil {
		return types.Errorf(types.KindUnavailable, "VM %s has no VMM", e.id)
	}
	ctx, cancel := context.WithTimeout(ctx, verbTimeout)
	defer cancel()
	if err := do(l.machine, ctx); err != nil {
		return e.because(l, event, err)
	}
	if event == lifecycle.Boot {
		e.rec.BootedAt = e.m.cfg.Now()
	}
	e.enter(want)
	return nil
}

// because explains an error of a VMM that may have ended in the meantime.
func (e *entry) because(l *live, event lifecycle.Event, err error) error {
	select {
	case <-l.machine.Exited():
		exit := l.machine.Exit()
		msg := exit.Reason
		if exit.Detail != "" {
			msg += ": " + exit.Detail
		}
		return types.Errorf(types.KindUnavailable, "VM %s: the VMM ended when asked to %s (%s)", e.id, event, msg)
	default:
		return err
	}
}
