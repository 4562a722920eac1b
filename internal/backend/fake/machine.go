package fake

import (
	"context"
	"fmt"
	"io"
	"sync/atomic"
	"time"

	"github.com/unkeyed/unkey/go/deploy/metald/internal/backend/types"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/host/dir"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/vm/lifecycle"
)

// machine is one daemon's hold of a process.
type machine struct {
	host    *Host
	process *process
	handle  types.Handle
	exited  chan struct{}
	told    func() // called when exited was closed; may be nil
	stopped func() // called when the guest was stopped and nobody asked for it; may be nil

	verbs    atomic.Int32 // that are under way
	released atomic.Bool
}

// attach makes m the one that hears of the process.
func (m *machine) attach(console io.Writer) error {
	p := m.process
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.state == lifecycle.Shutdown {
		return fmt.Errorf("adopt VM %s: %w", m.handle.VM, types.ErrGone)
	}
	if p.attached != nil {
		m.host.fault("VM %s was adopted while another had it", m.handle.VM)
	}
	p.attached, p.console = m, console
	return nil
}

// begin is the start of every verb. It counts those under way, since the seam allows one at a time.
func (m *machine) begin(ctx context.Context, verb string) (done func(), err error) {
	if m.verbs.Add(1) > 1 {
		m.host.fault("VM %s: %s was called while another verb was under way", m.handle.VM, verb)
	}
	done = func() { m.verbs.Add(-1) }
	if m.released.Load() {
		m.host.fault("VM %s: %s was called after Release", m.handle.VM, verb)
		return done, types.Errorf(types.KindInternal, "VM %s was released", m.handle.VM)
	}
	if err = m.host.hook(ctx, verb, m.handle.VM); err == nil && verb != VerbDestroy {
		err = m.answers(ctx)
	}
	return done, err
}

// answers waits for a mute process as long as a real backend would.
func (m *machine) answers(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return types.Errorf(types.KindCanceled, "VM %s: %w", m.handle.VM, err)
	}
	if !m.process.isMute() {
		return nil
	}
	timer := time.NewTimer(m.host.MuteTimeout)
	defer timer.Stop()
	select {
	case <-m.process.ended:
		return nil
	case <-ctx.Done():
	case <-timer.C:
	}
	return types.Errorf(types.KindUnavailable, "VM %s: the VMM does not answer", m.handle.VM)
}

func (m *machine) Handle() types.Handle { return m.handle }

func (m *machine) Boot(ctx context.Context) error {
	err := m.move(ctx, VerbBoot, lifecycle.Created, lifecycle.Running)
	if err == nil {
		m.process.runGuest()
	}
	return err
}

func (m *machine) Pause(ctx context.Context) error {
	return m.move(ctx, VerbPause, lifecycle.Running, lifecycle.Paused)
}

func (m *machine) Resume(ctx context.Context) error {
	return m.move(ctx, VerbResume, lifecycle.Paused, lifecycle.Running)
}

func (m *machine) move(ctx context.Context, verb string, from, to lifecycle.State) error {
	done, err := m.begin(ctx, verb)
	defer done()
	if err != nil || m.process.move(from, to) {
		return err
	}
	got := m.process.current()
	if got == lifecycle.Shutdown {
		return types.Errorf(types.KindUnavailable, "VM %s: the VMM has ended", m.handle.VM)
	}
	m.host.fault("VM %s: %s was called on a guest that is %s", m.handle.VM, verb, got)
	return types.Errorf(types.KindInternal, "VM %s: %s of a guest that is %s", m.handle.VM, verb, got)
}

func (m *machine) Shutdown(ctx context.Context) error {
	done, err := m.begin(ctx, VerbShutdown)
	defer done()
	if err != nil {
		return err
	}
	switch m.process.current() {
	case lifecycle.Shutdown:
		return types.Errorf(types.KindUnavailable, "VM %s: the VMM has ended", m.handle.VM)
	case lifecycle.Created:
		m.host.fault("VM %s: a guest that never ran was asked to power off", m.handle.VM)
	}
	m.process.pressPower()
	return nil
}

func (m *machine) State(ctx context.Context) (lifecycle.State, error) {
	if err := m.host.hook(ctx, VerbState, m.handle.VM); err != nil {
		return lifecycle.Absent, err
	}
	if err := m.answers(ctx); err != nil {
		return lifecycle.Absent, err
	}
	return m.process.current(), nil
}

func (m *machine) Usage(ctx context.Context) (types.Usage, error) {
	if err := m.host.hook(ctx, VerbUsage, m.handle.VM); err != nil {
		return types.Usage{}, err
	}
	if !m.hasExited() {
		if err := m.answers(ctx); err != nil {
			return types.Usage{}, err
		}
	}
	return m.process.usage(), nil
}

// Sources are none: a fake has no process.
func (m *machine) Sources() types.Sources { return types.Sources{DisksAtHand: true} }

func (m *machine) Exited() <-chan struct{} { return m.exited }

func (m *machine) hasExited() bool {
	select {
	case <-m.exited:
		return true
	default:
		return false
	}
}

func (m *machine) Exit() types.Exit {
	if !m.hasExited() {
		m.host.fault("VM %s: Exit was called before Exited was closed", m.handle.VM)
	}
	m.process.mu.Lock()
	defer m.process.mu.Unlock()
	return m.process.exit
}

func (m *machine) Destroy(ctx context.Context) error {
	done, err := m.begin(ctx, VerbDestroy)
	defer done()
	if err != nil {
		return err
	}
	m.process.end(types.Exit{Reason: types.ReasonForced})
	<-m.exited
	return dir.Remove(m.handle.RunDir)
}

func (m *machine) Release() {
	if m.released.Swap(true) {
		return
	}
	p := m.process
	p.mu.Lock()
	if p.attached == m {
		p.attached, p.console = nil, nil
	}
	p.mu.Unlock()
	p.finishSaying()
}
