package vm

import (
	"context"
	"time"

	"github.com/unkeyed/unkey/go/deploy/metald/internal/backend/types"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/metering/usage"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/vm/lifecycle"
)

// Metering is told of each life of a VM's counters, which is that of one VMM: by the VM's runner, and in order. Nothing
// but Ready and a Kept waits for a disk.
type Metering interface {
	// Begin says that a VMM exists, which cannot do anything yet. After an error it must not. A life of the VM that was
	// not adopted since metald started is over: nothing of it was ever saved.
	Begin(h types.Handle, spec types.Spec, tenant string) error

	// Attach says that the machine can be read from now on.
	Attach(m types.Machine)

	// Ready waits until the beginning is kept for good. A guest does not run before.
	Ready(ctx context.Context, id types.VMID) error

	// Adopt goes on with the life that an earlier metald began, and begins one where there is none. After an error the
	// machine is not metered.
	Adopt(m types.Machine, spec types.Spec, tenant string, state usage.State) error

	// Enter says that the VM was seen in a state, or is about to be booted.
	Enter(id types.VMID, state usage.State)

	// End says that the VMM has ended, and what its machine had used in all; what is nil in last was not read.
	End(id types.VMID, last types.Usage, reason string) Kept

	// Lost is End for a VMM of an earlier metald that could not be adopted.
	Lost(h types.Handle, last types.Usage, reason string) Kept
}

// Kept waits until what was told is kept for good.
type Kept = func(context.Context) error

func nothingToKeep(context.Context) error { return nil }

// unmetered is for a manager that nobody bills by.
type unmetered struct{}

func (unmetered) Begin(types.Handle, types.Spec, string) error               { return nil }
func (unmetered) Attach(types.Machine)                                       {}
func (unmetered) Ready(context.Context, types.VMID) error                    { return nil }
func (unmetered) Adopt(types.Machine, types.Spec, string, usage.State) error { return nil }
func (unmetered) Enter(types.VMID, usage.State)                              {}
func (unmetered) End(types.VMID, types.Usage, string) Kept                   { return nothingToKeep }
func (unmetered) Lost(types.Handle, types.Usage, string) Kept                { return nothingToKeep }

// Reasons for the end of a life beside those of types.Exit.
const reasonNeverRan = "never-ran" // its VM was not created after all, or its boot was cut short

// metered is the state of a VM as metering has it.
func metered(state lifecycle.State) usage.State {
	switch state {
	case lifecycle.Created:
		return usage.Created
	case lifecycle.Running:
		return usage.Running
	case lifecycle.Paused:
		return usage.Paused
	}
	return usage.Stopped
}

// Lives says whether the manager has a VM whose VMM is that process, be it that it does not answer.
func (m *Manager) Lives(id types.VMID, startTicks uint64, bootID string) bool {
	m.mu.Lock()
	e := m.byID[id]
	m.mu.Unlock()
	if e == nil {
		return false
	}
	process := e.left // until it is removed, if no VM comes of it
	if info := e.snapshot.Load(); info != nil {
		process = info.Process
	}
	return process.StartTicks == startTicks && process.BootID == bootID && process.PID != 0
}

// billed has the life that ended be closed by what its machine says last. It comes before anything is removed by which
// that could be read again.
func (e *entry) billed(ctx context.Context, machine types.Machine, reason string) {
	lookCtx, cancel := context.WithTimeout(ctx, lookTimeout)
	defer cancel()
	last, err := machine.Usage(lookCtx)
	if err != nil {
		e.log.Warn("what a VMM used last could not be read", "vm", e.id, "error", err)
		last = types.Usage{}
	}
	e.m.kept(ctx, e.id, e.m.cfg.Metering.End(e.id, last, reason))
}

// keepTimeout bounds the wait for the log. It has the end in memory, and goes on to keep it.
const keepTimeout = time.Second

// kept waits until the end of a life is kept for good.
func (m *Manager) kept(ctx context.Context, id types.VMID, kept Kept) {
	ctx, cancel := context.WithTimeout(ctx, keepTimeout)
	defer cancel()
	if err := kept(ctx); err != nil {
		m.cfg.Log.Warn("the end of a VMM is not in the log of usage yet", "vm", id, "error", err)
	}
}
