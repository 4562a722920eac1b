package vm

import (
	"context"
	"time"

	"github.com/unkeyed/unkey/go/deploy/metald/internal/backend/types"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/vm/lifecycle"
)

// Shutdown asks the guest to power off and waits up to timeout for the VMM to end; with force it ends the VMM.
// A guest that did not stop in time is left running and the error is KindDeadline. The wait holds up nothing:
// other requests for the VM, a forced shutdown among them, are served meanwhile.
func (m *Manager) Shutdown(ctx context.Context, id types.VMID, force bool, timeout time.Duration) (Info, error) {
	if force {
		return m.force(ctx, id, func(opCtx context.Context, e *entry) (after, error) {
			if _, err := e.next(lifecycle.ForceShutdown); err != nil {
				return nil, err
			}
			e.dropReboot("the VM was shut down by force")
			return nil, e.end(opCtx)
		})
	}
	var asked *live
	info, err := m.verb(ctx, id, func(opCtx context.Context, e *entry) (_ after, err error) {
		if _, err := e.next(lifecycle.AskShutdown); err != nil {
			return nil, err
		}
		e.dropReboot("the VM was asked to shut down")
		asked, err = e.ask(opCtx, lifecycle.AskShutdown, timeout)
		return nil, err
	})
	if err != nil || asked == nil {
		return info, err
	}
	if err := m.await(ctx, asked, timeout); err != nil {
		return info, err
	}
	return *asked.final, nil // it may have been booted again since
}

// ask has the machine ask its guest to power off, and again until timeout has passed. It returns nil where the VM
// is shut down already.
func (e *entry) ask(ctx context.Context, event lifecycle.Event, timeout time.Duration) (*live, error) {
	l := e.live.Load()
	if e.rec.State == lifecycle.Shutdown || l == nil {
		return nil, nil
	}
	err := e.command(ctx, l, event, e.rec.State, l.machine.Shutdown)
	select {
	case <-l.machine.Exited(): // before it could be asked, or at once: that is what was wanted
		return l, nil
	default:
	}
	if err == nil {
		e.askAgain(l, e.m.cfg.Now().Add(timeout))
	}
	return l, err
}

// askAgain asks every askEvery until the guest has ended or the time is over. A guest whose kernel is still
// starting does not see a power button, so asking once could be asking in vain.
// There is one clock for all who ask.
func (e *entry) askAgain(l *live, until time.Time) {
	if until.After(l.askUntil) {
		l.askUntil = until
	}
	if l.asking {
		return
	}
	l.asking = true
	e.later(askEvery, l.ended, func() {
		l.asking = false
		if e.live.Load() != l || e.m.cfg.Now().After(l.askUntil) {
			return
		}
		if e.rec.State == lifecycle.Running {
			ctx, cancel := context.WithTimeout(e.m.opCtx, lookTimeout)
			defer cancel()
			if err := l.machine.Shutdown(ctx); err != nil {
				e.log.Debug("a guest could not be asked again to power off", "vm", e.id, "error", err)
			}
		}
		e.askAgain(l, l.askUntil)
	})
}

// await waits until the end of l was observed.
func (m *Manager) await(ctx context.Context, l *live, timeout time.Duration) error {
	timer := time.NewTimer(timeout)
	defer timer.Stop()
	select {
	case <-l.ended:
		return nil
	case <-timer.C:
		return types.Errorf(types.KindDeadline, "the guest was asked to power off and did not within %s; it runs on. Use force to end its VMM", timeout)
	case <-ctx.Done():
		return canceled(ctx)
	case <-m.stopping:
		return errParked
	}
}

// end ends the VMM at once. A VM without one is shut down already.
func (e *entry) end(ctx context.Context) error {
	l := e.live.Load()
	if l == nil && e.rec.Handle == nil {
		return nil
	}
	if l == nil {
		if err := e.reap(ctx); err != nil {
			return err
		}
		e.keep()
		return nil
	}
	reason := &types.Exit{Reason: types.ReasonForced, Code: -1}
	select {
	case <-l.machine.Exited(): // on its own, before we could
		reason = nil
	default:
	}
	if err := e.finish(ctx, l, reason); err != nil {
		return err
	}
	e.keep()
	return nil
}

// reap ends a VMM that metald could not adopt.
func (e *entry) reap(ctx context.Context) error {
	last, err := e.m.reap(ctx, *e.rec.Handle)
	if err != nil {
		return err
	}
	e.m.cfg.Metering.Lost(*e.rec.Handle, last, types.ReasonForced)
	e.ended(types.Exit{Reason: types.ReasonForced, Code: -1})
	return nil
}
