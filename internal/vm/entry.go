package vm

import (
	"context"
	"errors"
	"log/slog"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"

	"github.com/unkeyed/unkey/go/deploy/metald/internal/backend/types"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/console"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/vm/lifecycle"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/vm/store"
)

// entry is one VM in the manager.
type entry struct {
	m       *Manager
	id      types.VMID
	console *console.Log
	log     *slog.Logger

	left types.ProcessIdentity // the VMM that an earlier metald left

	born   chan struct{} // closed when the creation has succeeded or failed
	gone   chan struct{} // closed when nothing of the VM is left, its record included
	hidden atomic.Bool   // deleted, and soon gone
	stuck  atomic.Bool   // what is left of it could not be removed yet

	snapshot atomic.Pointer[Info] // what readers see; nil until created
	live     atomic.Pointer[live] // the VMM; nil when there is none

	// Owned by the runner.
	rec    store.Record
	reboot *reboot
	health string

	mu      sync.Mutex
	queue   []func()
	running bool
	forces  int                     // forced verbs that wait or are under way
	cut     context.CancelCauseFunc // cuts short the verb under way; nil if there is none that may be
}

// live is one incarnation's VMM.
type live struct {
	machine types.Machine
	ended   chan struct{} // closed when its end was observed and published
	final   *Info         // what the VM was then; valid once ended is closed
	reading reading

	// The runner's.
	looking  bool      // lookAgain is under way
	asking   bool      // askAgain is under way
	askUntil time.Time // until when it goes on
}

var errParked = types.Errorf(types.KindUnavailable, "metald is stopping; VMs run on, try again when it is back")

// enqueue adds op to the VM's queue and makes sure that a runner does it.
func (e *entry) enqueue(op func()) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if !e.running {
		if !e.m.start(e.run) {
			return errParked
		}
		e.running = true
	}
	e.queue = append(e.queue, op)
	return nil
}

// run is the VM's runner: it ends when the queue is empty.
func (e *entry) run() {
	for {
		e.mu.Lock()
		if len(e.queue) == 0 {
			e.running = false
			e.queue = nil
			e.mu.Unlock()
			return
		}
		op := e.queue[0]
		e.queue = e.queue[1:]
		e.mu.Unlock()
		e.safely(op)
	}
}

// safely keeps a fault of ours in one operation from ending the daemon, and with it the service of every VM.
func (e *entry) safely(op func()) {
	defer func() {
		if p := recover(); p != nil {
			e.log.Error("an operation panicked", "vm", e.id, "panic", p, "stack", string(debug.Stack()))
		}
	}()
	op()
}

// later has the runner do op after d, unless moot is closed or metald stops before.
func (e *entry) later(d time.Duration, moot <-chan struct{}, op func()) {
	e.m.start(func() {
		timer := time.NewTimer(d)
		defer timer.Stop()
		select {
		case <-timer.C:
			_ = e.enqueue(op) // refused only when metald stops
		case <-moot:
		case <-e.m.stopping:
		}
	})
}

// after is what an operation still has to do once its caller has been answered; may be nil.
type after func()

// do has the runner do op and waits for its answer. A caller who gives up before op begins takes it back; later
// op goes on without its caller, within launchTimeout. ends are called when op has ended, or never begins.
func (e *entry) do(ctx context.Context, op func(context.Context) (after, error), ends ...func()) error {
	answer := make(chan error, 1)
	ended := func() {
		for _, end := range ends {
			end()
		}
	}
	err := e.enqueue(func() {
		defer ended()
		if ctx.Err() != nil {
			answer <- canceled(ctx)
			return
		}
		opCtx, cancel := context.WithTimeout(e.m.opCtx, launchTimeout)
		defer cancel()
		then, err := e.guard(opCtx, op)
		answer <- err
		if then != nil {
			then()
		}
	})
	if err != nil {
		ended()
		return err
	}
	select {
	case err := <-answer:
		return err
	case <-ctx.Done():
		return canceled(ctx)
	}
}

// guard answers the caller of an operation that hits a fault of ours.
func (e *entry) guard(ctx context.Context, op func(context.Context) (after, error)) (then after, err error) {
	defer e.contain(&err)
	return op(ctx)
}

// contain is deferred: it makes a panic an error.
func (e *entry) contain(err *error) {
	if p := recover(); p != nil {
		e.log.Error("an operation panicked", "vm", e.id, "panic", p, "stack", string(debug.Stack()))
		*err = types.Errorf(types.KindInternal, "the operation hit a fault in metald; its log says more")
	}
}

func canceled(ctx context.Context) error {
	if errors.Is(ctx.Err(), context.DeadlineExceeded) {
		return types.Errorf(types.KindDeadline, "the caller's deadline passed before this was done")
	}
	return types.Errorf(types.KindCanceled, "the caller gave up before this was done")
}

// next asks the state machine whether event is legal now.
func (e *entry) next(event lifecycle.Event) (lifecycle.State, error) {
	if e.hidden.Load() {
		return lifecycle.Gone, types.Errorf(types.KindNotFound, "there is no VM %q on this host", e.id)
	}
	state, err := lifecycle.Next(e.rec.State, event)
	if err != nil {
		return state, types.Errorf(types.KindPrecondition, "VM %s: %w", e.id, err)
	}
	if e.rec.Phase == store.Deleting && event != lifecycle.Exit && event != lifecycle.Delete && event != lifecycle.ForceDelete {
		return state, types.Errorf(types.KindPrecondition, "VM %s is being deleted, which did not succeed yet; delete it again", e.id)
	}
	if e.live.Load() == nil && e.health != "" && event != lifecycle.Exit && event != lifecycle.ForceDelete && event != lifecycle.ForceShutdown {
		return state, types.Errorf(types.KindUnavailable, "VM %s: %s", e.id, e.health)
	}
	return state, nil
}

// enter notes a change of state and shows it to readers.
func (e *entry) enter(state lifecycle.State) {
	if state != e.rec.State {
		e.rec.State = state
		e.rec.ModifiedAt = e.m.cfg.Now()
	}
	e.publish()
}

// backend is the one that the VM was created on.
func (e *entry) backend() (*member, error) {
	b, err := e.m.fleet.named(e.rec.Backend)
	if err != nil {
		return nil, types.Errorf(types.KindPrecondition, "VM %s is one of the backend %s, which this metald has not", e.id, e.rec.Backend)
	}
	return b, nil
}

// publish shows readers the record as it is now.
func (e *entry) publish() {
	r := &e.rec
	info := &Info{
		ID: r.ID, Seq: r.Seq, Tenant: r.Tenant, Spec: r.Spec, State: r.State,
		CreatedAt: r.CreatedAt, ModifiedAt: r.ModifiedAt, BootedAt: r.BootedAt,
		Backend: r.Backend, VMM: r.VMM, VMMVersion: r.VMMVersion, Incarnation: r.Incarnation,
		Exit: r.Exit, ExitedAt: r.ExitedAt, Health: e.health,
	}
	if r.Handle != nil {
		info.PID, info.Process = r.Handle.Process.PID, r.Handle.Process
	}
	e.m.index.show(e, info)
}

// save makes the record durable. A change that was observed stands even if it cannot be saved: after a restart
// it is observed again.
func (e *entry) save() error {
	err := e.m.cfg.Store.Put(e.rec)
	if err != nil {
		e.log.Error("a VM's record could not be saved", "vm", e.id, "error", err)
	}
	return err
}

// keep is save for an operation whose outcome does not depend on it.
func (e *entry) keep() { _ = e.save() }

// park lets go of the VMM: metald is about to stop, the VM goes on.
func (e *entry) park() {
	if l := e.live.Swap(nil); l != nil {
		l.machine.Release()
	}
	e.closeConsole()
}

// closeConsole ends everybody who follows the console. Repeatable.
func (e *entry) closeConsole() {
	if e.console == nil {
		return
	}
	if err := e.console.Close(); err != nil {
		e.log.Warn("close a console log", "vm", e.id, "error", err)
	}
}
