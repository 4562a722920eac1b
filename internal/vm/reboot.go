package vm

import (
	"context"
	"time"

	"github.com/unkeyed/unkey/go/deploy/metald/internal/backend/types"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/vm/lifecycle"
)

// reboot is a reboot that waits for its guest to power off. It goes on without its caller.
type reboot struct {
	done  chan error // buffered; gets the outcome
	timer *time.Timer
}

// Reboot shuts down as Shutdown does and boots a new incarnation with the same disks.
func (m *Manager) Reboot(ctx context.Context, id types.VMID, force bool, timeout time.Duration) (Info, error) {
	if force {
		return m.force(ctx, id, func(opCtx context.Context, e *entry) (after, error) {
			return e.keep, e.forceReboot(opCtx)
		})
	}
	done := make(chan error, 1)
	info, err := m.verb(ctx, id, func(opCtx context.Context, e *entry) (after, error) {
		return nil, e.askReboot(opCtx, done, timeout)
	})
	if err != nil {
		return info, err
	}
	select {
	case err = <-done:
	case <-ctx.Done():
		err = canceled(ctx)
	case <-m.stopping:
		err = errParked
	}
	if err != nil {
		return info, err
	}
	return m.Get(id)
}

// forceReboot records the intent, then ends the VMM and boots the next.
func (e *entry) forceReboot(ctx context.Context) error {
	if _, err := e.next(lifecycle.ForceReboot); err != nil {
		return err
	}
	e.dropReboot("the VM was rebooted by force")
	if err := e.intendBoot(launchTimeout); err != nil {
		return err
	}
	if err := e.end(ctx); err != nil {
		e.rec.RebootBy = time.Time{}
		return err
	}
	return e.rebootNow(ctx)
}

// intendBoot saves that an end of the VMM, within a time, is followed by a boot.
func (e *entry) intendBoot(within time.Duration) error {
	e.rec.RebootBy = e.m.cfg.Now().Add(within)
	if err := e.save(); err != nil {
		e.rec.RebootBy = time.Time{}
		return errNotSaved
	}
	return nil
}

// rebootNow boots a VM that was shut down in order to boot again. The record keeps the intent until that is done,
// or has not worked, so that a metald that dies on the way finishes it when it is back.
func (e *entry) rebootNow(ctx context.Context) error {
	e.rec.RebootBy = e.m.cfg.Now().Add(launchTimeout)
	err := e.boot(ctx)
	if err != nil {
		e.log.Error("a VM could not be booted again after it was shut down for a reboot", "vm", e.id, "error", err)
	}
	if e.m.opCtx.Err() == nil {
		e.rec.RebootBy = time.Time{}
	}
	return err
}

// askReboot records the intent, then asks the guest: a metald that dies in between finishes the reboot when it
// is back.
func (e *entry) askReboot(ctx context.Context, done chan error, timeout time.Duration) error {
	if _, err := e.next(lifecycle.AskReboot); err != nil {
		return err
	}
	if e.reboot != nil {
		return types.Errorf(types.KindAborted, "VM %s is being rebooted by another request", e.id)
	}
	if err := e.intendBoot(timeout); err != nil {
		return err
	}
	e.waitReboot(done, timeout)
	if _, err := e.ask(ctx, lifecycle.AskReboot, timeout); err != nil {
		e.takeReboot()
		e.keep()
		return err
	}
	return nil
}

// waitReboot gives the guest timeout to power off.
func (e *entry) waitReboot(done chan error, timeout time.Duration) {
	r := &reboot{done: done}
	r.timer = time.AfterFunc(timeout, func() {
		// Refused only when metald stops: the record keeps the intent and its deadline.
		_ = e.enqueue(func() {
			if e.reboot == r {
				e.takeReboot()
				e.keep()
				r.done <- types.Errorf(types.KindDeadline, "the guest was asked to power off for a reboot and did not within %s; it runs on. Use force to end its VMM", timeout)
			}
		})
	})
	e.reboot = r
}

// takeReboot takes the pending reboot, if there is one, out of the VM.
func (e *entry) takeReboot() *reboot {
	r := e.reboot
	if r != nil {
		r.timer.Stop()
	}
	e.reboot, e.rec.RebootBy = nil, time.Time{}
	return r
}

// dropReboot ends a pending reboot because something else was asked for.
func (e *entry) dropReboot(why string) {
	if r := e.takeReboot(); r != nil {
		e.keep()
		r.done <- types.Errorf(types.KindAborted, "the reboot was given up: %s", why)
	}
}

// bootAfterExit finishes a reboot whose guest has powered off.
func (e *entry) bootAfterExit(ctx context.Context) {
	r := e.takeReboot()
	r.done <- e.rebootNow(ctx)
}
