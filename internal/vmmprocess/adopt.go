package vmmprocess

import (
	"errors"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/unkeyed/unkey/go/deploy/metald/internal/backend/types"
)

// Adopt watches a process that an earlier metald started. Its error wraps types.ErrGone if the identity does
// not match a live process: another boot of the host, no such pid, a pid that was reused, a zombie.
//
// A process with the right boot id, pid and start ticks is the one that was started, since a pid is not reused
// within a tick of 10 ms. If it is still the start gate, or the jailer behind it, it is waited for: a gate that was
// opened becomes the VMM, one whose metald died before that ends by itself. A process that runs anything else than the VMM that was
// committed may not live, as nothing is known of it: it is killed, and the error wraps types.ErrGone.
func (s *Supervisor) Adopt(id types.ProcessIdentity) (*Process, error) {
	p, err := s.adopt(id)
	if err != nil {
		return nil, fmt.Errorf("adopt process %d: %w", id.PID, err)
	}
	return p, nil
}

func (s *Supervisor) adopt(id types.ProcessIdentity) (*Process, error) {
	if id.BootID != s.bootID {
		return nil, fmt.Errorf("%w: the host was restarted since", types.ErrGone)
	}
	if id.PID <= 0 {
		return nil, fmt.Errorf("%w: there is no such pid", types.ErrGone)
	}
	// The pidfd comes first: what is found out about the pid while it is not ready is true of its process.
	pidfd, err := unix.PidfdOpen(id.PID, 0)
	switch {
	case err == unix.ESRCH || err == unix.EINVAL || err == unix.ENOENT: // EINVAL, ENOENT: a thread has that number now
		return nil, fmt.Errorf("%w: there is no such process", types.ErrGone)
	case err != nil:
		return nil, fmt.Errorf("open a pidfd: %w", err)
	}
	p := &Process{s: s, id: id, exited: make(chan struct{}), pidfd: pidfd}
	if err := p.verify(); err != nil {
		unix.Close(pidfd)
		return nil, err
	}
	if err := s.watch(p); err != nil {
		unix.Close(pidfd)
		return nil, err
	}
	return p, nil
}

// verify compares the process that the pidfd holds with the identity.
func (p *Process) verify() error {
	st, err := readStat(p.id.PID)
	if err != nil || pidfdReady(p.pidfd) {
		return p.goneOr(err)
	}
	if st.StartTicks != p.id.StartTicks {
		return fmt.Errorf("%w: its pid belongs to another process now", types.ErrGone)
	}
	p.child, p.told = st.PPID == os.Getpid(), st.Told
	return p.verifyExecutable()
}

// verifyExecutable waits for a start gate, or what it became on the way, to become the VMM or to end: for as long as
// endWait, or jailWait where a jailer is on the way.
func (p *Process) verifyExecutable() error {
	want := Executable{Device: p.id.ExeDevice, Inode: p.id.ExeInode}
	via := Executable{Device: p.id.ViaDevice, Inode: p.id.ViaInode}
	most := endWait
	if via != (Executable{}) {
		most = jailWait
	}
	for deadline := time.Now().Add(most); ; {
		exe, err := statExecutable(procPath(p.id.PID, "exe"))
		if err != nil || pidfdReady(p.pidfd) {
			return p.goneOr(err)
		}
		if exe == want {
			return nil
		}
		if exe != via && !isGate(p.id.PID, exe) || time.Now().After(deadline) {
			return p.putDown()
		}
		waitEnd(p.pidfd, time.Millisecond)
	}
}

// goneOr is called when something could not be read of the process, or it has ended. A process that is about to
// end loses its /proc entries before its pidfd becomes ready.
func (p *Process) goneOr(err error) error {
	ending := errors.Is(err, unix.ESRCH) || errors.Is(err, os.ErrNotExist)
	if pidfdReady(p.pidfd) || (ending && waitEnd(p.pidfd, endWait)) {
		p.reap()
		return fmt.Errorf("%w: it has ended", types.ErrGone)
	}
	return err
}

// putDown ends a process that is ours and not the VMM that was committed.
func (p *Process) putDown() error {
	p.s.log.Warn("ending a process that metald started and that is not the VMM it was to be", "pid", p.id.PID)
	if err := unix.PidfdSendSignal(p.pidfd, unix.SIGKILL, nil, 0); err != nil && err != unix.ESRCH {
		return fmt.Errorf("it is not the VMM it was to be, and cannot be ended: %w", err)
	}
	if !waitEnd(p.pidfd, endWait) {
		return fmt.Errorf("it is not the VMM it was to be, got SIGKILL and has not ended in %s", endWait)
	}
	p.reap()
	return fmt.Errorf("%w: it never became the VMM it was to be, and was ended", types.ErrGone)
}

// reap takes the zombie away where the process is our own child: adopted by the metald that started it.
func (p *Process) reap() {
	if p.child {
		_, _ = wait4(p.id.PID, nil)
	}
}

// endWait bounds how long Adopt waits for the end of a process that is ending. With a start gate it takes
// well under a millisecond.
const endWait = time.Second

// jailWait bounds how long Adopt waits for a jailer to become the VMM. It takes some milliseconds, and ten times as
// long where many start at once.
const jailWait = 5 * time.Second

// waitEnd waits for the end of a process and tells whether it came.
func waitEnd(pidfd int, most time.Duration) bool {
	fds := []unix.PollFd{{Fd: int32(pidfd), Events: unix.POLLIN}}
	deadline := time.Now().Add(most)
	for left := most; left > 0; left = time.Until(deadline) {
		if n, err := unix.Poll(fds, int((left + time.Millisecond - 1).Milliseconds())); err == nil && n == 1 {
			return true
		}
	}
	return pidfdReady(pidfd)
}
