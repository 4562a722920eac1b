package cloudhypervisor

import (
	"context"
	"syscall"
	"time"

	"github.com/unkeyed/unkey/go/deploy/metald/internal/vm/lifecycle"
)

const (
	// lookEvery is how often the counters of a guest that runs are read. The thread that answers is the one that boots,
	// pauses and ends the VM.
	lookEvery = time.Second
	// stateEvery is how many looks go by before the state is asked for, too, which is a much longer answer.
	stateEvery = 5
	// lookTimeout is when a look is given up.
	lookTimeout = 2 * time.Second
)

// lookAfter reads the counters now and then while the guest runs. It returns true when Cloud Hypervisor has ended, false when the machine was released.
func (m *machine) lookAfter() (ended bool) {
	ticker := time.NewTicker(lookEvery)
	defer ticker.Stop()
	stop := m.onExit(m.unlife) // what is under way waits for nobody
	defer stop()
	for looks := 0; ; {
		select {
		case <-m.process.Exited():
			return true
		case <-m.released:
			return false
		case <-ticker.C:
			if m.now().running {
				m.look(looks%stateEvery == 0)
				looks++
			}
		}
	}
}

// look finds out what no event told: events may be lost.
func (m *machine) look(state bool) {
	ctx, cancel := context.WithTimeout(m.life, lookTimeout)
	defer cancel()
	if err := m.count(ctx); err != nil && !m.died() {
		state = true // a guest without counters may be none any more
	}
	if !state {
		return
	}
	if got, err := m.State(ctx); err == nil && got == lifecycle.Paused && m.onStop != nil {
		m.onStop()
	}
}

// event takes what Cloud Hypervisor says. It does not block.
func (m *machine) event(e vmmEvent) {
	switch {
	case e.is("guest", "panic") && e.Properties["event"] == "panic":
		m.set(func(s *status) { s.panicked = true })
	case e.is("vm", "booted"):
		m.set(func(s *status) { s.started, s.ran, s.running = true, true, true })
	case e.is("vm", "rebooting"), e.is("vm", "rebooted"):
		m.endGuest(func(s *status) { s.reset = true })
	}
}

// endGuest ends a Cloud Hypervisor whose guest is not the one any more that was booted, at once: its counters begin anew,
// and nothing of another boot belongs into this incarnation. Who asks for the guest next gets a VMM of its own.
func (m *machine) endGuest(why func(*status)) {
	m.mu.Lock()
	if !m.forced {
		why(&m.status)
	}
	begun := m.begun
	m.mu.Unlock()
	if begun {
		_ = m.process.Signal(syscall.SIGKILL) // one that has ended is well, and nothing else can be wrong
	}
}
