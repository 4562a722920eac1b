package vmmprocess

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/unkeyed/unkey/go/deploy/metald/internal/backend/types"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/epoll"
)

// errReleased is what the verbs of a process return after Release.
var errReleased = errors.New("metald has let go of the process")

// Process is one watched VMM process. It is safe for concurrent use.
type Process struct {
	s      *Supervisor
	id     types.ProcessIdentity
	child  bool // of this metald: it has to be reaped
	told   bool // the kernel lets us read the exit code of the zombie
	exited chan struct{}

	mu      sync.Mutex
	pidfd   int         // -1 once the process has ended or was released
	token   epoll.Token // zero until it is watched
	ended   bool
	status  syscall.WaitStatus
	known   bool
	cpu     time.Duration // its CPU clock at the end, where counted
	counted bool
}

// Identity names the process for good.
func (p *Process) Identity() types.ProcessIdentity { return p.id }

// Exited is closed when the process has ended (and, where it is a child, was reaped). It is never closed after
// Release.
func (p *Process) Exited() <-chan struct{} { return p.exited }

// Status says how it ended; valid after Exited is closed. Known is false where the kernel does not tell.
func (p *Process) Status() (status syscall.WaitStatus, known bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.status, p.known
}

// FinalCPU is what the CPU clock of the process (see CPUTime) said when it had ended; valid after Exited is closed. The
// clock is the process's from its start on, so the start gate and a jailer that became the VMM are in it. Known is false
// where somebody else, as the parent of an adopted process, took the zombie away before it could be read.
func (p *Process) FinalCPU() (used time.Duration, known bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.cpu, p.counted
}

// killPoll is how often Kill looks for itself whether the process has ended: it works without Run, too.
const killPoll = 10 * time.Millisecond

// Kill sends SIGKILL by pidfd and waits for the end or for ctx. A process that has ended already is no error.
func (p *Process) Kill(ctx context.Context) error {
	if err := p.Signal(syscall.SIGKILL); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	tick := time.NewTicker(killPoll)
	defer tick.Stop()
	for {
		select {
		case <-p.exited:
			return nil
		case <-ctx.Done():
			return fmt.Errorf("process %d got SIGKILL and has not ended: %w", p.id.PID, ctx.Err())
		case <-tick.C:
			if err := p.collect(); err != nil {
				return fmt.Errorf("wait for the end of process %d: %w", p.id.PID, err)
			}
		}
	}
}

// Signal sends sig by pidfd; os.ErrProcessDone if the process has ended.
func (p *Process) Signal(sig syscall.Signal) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case p.ended:
		return os.ErrProcessDone
	case p.pidfd < 0:
		return fmt.Errorf("signal process %d: %w", p.id.PID, errReleased)
	}
	err := unix.PidfdSendSignal(p.pidfd, sig, nil, 0)
	if err == unix.ESRCH {
		return os.ErrProcessDone
	}
	if err != nil {
		return fmt.Errorf("send signal %d to process %d: %w", sig, p.id.PID, err)
	}
	return nil
}

// Release stops watching and closes the pidfd; the process goes on. Repeatable.
func (p *Process) Release() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.pidfd >= 0 {
		p.letGo()
	}
}

// letGo is called with mu held.
func (p *Process) letGo() {
	p.s.poller.Remove(p.pidfd, p.token)
	unix.Close(p.pidfd)
	p.pidfd = -1
}

// collect notes the end of the process if it has ended. It never waits.
func (p *Process) collect() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case p.ended:
		return nil
	case p.pidfd < 0:
		return errReleased
	case !pidfdReady(p.pidfd):
		return nil
	}
	p.cpu, p.counted = finalCPU(p) // before it is reaped
	p.status, p.known = exitStatus(p)
	p.ended = true
	p.letGo()
	close(p.exited)
	return nil
}
