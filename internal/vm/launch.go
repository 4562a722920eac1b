package vm

import (
	"context"
	"sync"
	"time"

	"github.com/unkeyed/unkey/go/deploy/metald/internal/backend/types"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/vm/lifecycle"
)

// launch starts the VMM of a new incarnation. After an error none is left, and the record has no handle; or it has
// that of a VMM which did not end, and the next launch ends it first.
func (e *entry) launch(ctx context.Context, f files) (types.Machine, error) {
	m := e.m
	b, err := e.backend()
	if err != nil {
		return nil, err
	}
	select {
	case m.launches <- struct{}{}:
	case <-ctx.Done():
		return nil, canceled(ctx)
	}
	// The turn ends when the process exists: how long it takes until it answers holds up nobody else.
	next := sync.OnceFunc(func() { <-m.launches })
	defer next()
	if err := e.clear(ctx); err != nil {
		return nil, err
	}
	uid, gid := b.owner(e.rec.Slot)
	e.rec.Incarnation++
	machine, err := b.Create(ctx, types.CreateRequest{
		ID: e.id, Incarnation: e.rec.Incarnation, Spec: e.rec.Spec,
		Kernel: f.kernel, Initrd: f.initrd, Disks: f.disks,
		RunDir: m.runDir(e.id, e.rec.Incarnation), RootDir: m.rootDir(e.id, e.rec.Incarnation), UID: uid, GID: gid,
		Console: e.console, Ended: e.observeEnd, Stopped: e.observeStop,
		Commit: func(h types.Handle) error {
			defer next()
			e.rec.Handle = &h
			if err := e.save(); err != nil {
				return err
			}
			// After the record: a VMM that never was anybody's has no life.
			if err := m.cfg.Metering.Begin(h, e.rec.Spec, e.rec.Tenant); err != nil {
				return types.Errorf(types.KindUnavailable, "VM %s cannot be metered, so it is not started: %w", e.id, err)
			}
			return nil
		},
	})
	if err != nil {
		if err := e.clear(context.WithoutCancel(ctx)); err != nil {
			e.log.Error("a VMM that did not start could not be ended", "vm", e.id, "error", err)
		}
		return nil, err
	}
	e.hold(machine)
	m.cfg.Metering.Attach(machine)
	return machine, nil
}

// clear sees to it that nothing is left of a VMM that the record names and that did not start: its user and its disks
// are about to be another's.
func (e *entry) clear(ctx context.Context) error {
	if e.rec.Handle == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, verbTimeout)
	defer cancel()
	last, err := e.m.reap(ctx, *e.rec.Handle)
	if err != nil {
		return types.Errorf(types.KindUnavailable, "a VMM of VM %s that did not start cannot be ended: %w", e.id, err)
	}
	e.m.cfg.Metering.Lost(*e.rec.Handle, last, reasonNeverRan)
	e.rec.Handle = nil
	return nil
}

// hold notes in the record what the machine now says of itself.
func (e *entry) hold(machine types.Machine) {
	h := machine.Handle()
	e.rec.Handle, e.rec.VMM, e.rec.VMMVersion, e.rec.Backend = &h, h.VMM, h.VMMVersion, h.Backend
	e.rec.Exit, e.rec.ExitedAt = nil, time.Time{}
}

// attach makes machine the VM's own.
func (e *entry) attach(machine types.Machine) {
	e.live.Store(&live{machine: machine, ended: make(chan struct{}), reading: reading{asking: make(chan struct{}, 1)}})
}

// observeEnd has the runner look at a VMM that has ended. The backend calls it.
func (e *entry) observeEnd() {
	// Refused only when metald stops: the next one observes the end.
	_ = e.enqueue(func() {
		l := e.live.Load()
		if l == nil {
			return // the VM has dealt with it, or never came of it
		}
		select {
		case <-l.machine.Exited():
			e.observeExit(l)
		default: // another incarnation lives
		}
	})
}

// observeStop has the runner look at a VMM whose guest was stopped without being told. The backend calls it.
func (e *entry) observeStop() {
	// Refused only when metald stops: the next one looks.
	_ = e.enqueue(func() {
		if l := e.live.Load(); l != nil && !l.looking {
			l.looking = true
			e.health = "its VMM stopped the guest by itself; metald looks why"
			e.publish()
			e.lookAgain(l)
		}
	})
}

// observeExit is what follows when a VMM has ended, whoever ended it.
func (e *entry) observeExit(l *live) {
	if e.live.Load() != l {
		return
	}
	ctx, cancel := context.WithTimeout(e.m.opCtx, launchTimeout)
	defer cancel()
	if err := e.finish(ctx, l, nil); err != nil {
		e.log.Error("the end of a VMM could not be dealt with", "vm", e.id, "error", err)
		return
	}
	if e.reboot != nil {
		e.bootAfterExit(ctx)
	}
	e.keep()
}

// finish sees to it that a VMM has ended and left nothing, and takes the VM to SHUTDOWN. reason overrides what
// the VMM's end looked like; nil keeps that. After an error the VMM may be alive and the VM is as it was.
func (e *entry) finish(ctx context.Context, l *live, reason *types.Exit) error {
	ctx, cancel := context.WithTimeout(ctx, verbTimeout)
	defer cancel()
	err := l.machine.Destroy(ctx)
	select {
	case <-l.machine.Exited():
	default:
		return types.Errorf(types.KindUnavailable, "the VMM of VM %s could not be ended: %v", e.id, err)
	}
	if err != nil {
		e.log.Error("what a VMM left could not be removed; the next start will", "vm", e.id, "error", err)
	}
	exit := reason
	if exit == nil {
		observed := l.machine.Exit()
		exit = &observed
	}
	e.log.Info("a VMM ended", "vm", e.id, "incarnation", e.rec.Incarnation, "reason", exit.Reason, "detail", exit.Detail)
	e.billed(l.machine, exit.Reason)
	e.ended(*exit)
	e.live.Store(nil)
	l.final = e.snapshot.Load()
	close(l.ended)
	return nil
}

// ended takes the VM to SHUTDOWN and keeps why.
func (e *entry) ended(exit types.Exit) {
	e.rec.Handle = nil
	e.rec.Exit, e.rec.ExitedAt = &exit, e.m.cfg.Now()
	e.rec.BootedAt = time.Time{}
	e.health = ""
	e.enter(lifecycle.Shutdown)
}

// discard ends a machine that no VM came of.
func (e *entry) discard(machine types.Machine) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(e.m.opCtx), verbTimeout)
	defer cancel()
	if err := machine.Destroy(ctx); err != nil {
		e.log.Error("a VMM could not be ended", "vm", e.id, "error", err)
		return
	}
	e.billed(machine, reasonNeverRan)
	e.rec.Handle = nil
}
