package vmmprocess

import (
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/unkeyed/unkey/go/deploy/metald/internal/backend/types"
)

// pidfdReady tells whether the process of a pidfd has ended, all its threads included.
func pidfdReady(pidfd int) bool {
	fds := []unix.PollFd{{Fd: int32(pidfd), Events: unix.POLLIN}}
	for {
		n, err := unix.Poll(fds, 0)
		if err == unix.EINTR {
			continue
		}
		return err == nil && n == 1
	}
}

// exitStatus returns the wait status of a process that has ended. A child is reaped: by its own pid, never by
// wait(-1), which would steal the children of others in this process. Of an adopted process the kernel tells
// while it is a zombie (field 52 of /proc/<pid>/stat) and, from 6.15 on, after its parent reaped it
// (PIDFD_GET_INFO).
func exitStatus(p *Process) (status syscall.WaitStatus, known bool) {
	if p.child {
		if pid, err := wait4(p.id.PID, &status); err == nil && pid == p.id.PID {
			return status, true
		}
	}
	if status, known = exitOfReaped(p.pidfd); known {
		return status, true
	}
	if status, known = exitOfZombie(p); known {
		return status, true
	}
	// It may have been reaped between the two looks.
	return exitOfReaped(p.pidfd)
}

func wait4(pid int, status *syscall.WaitStatus) (int, error) {
	for {
		got, err := syscall.Wait4(pid, status, syscall.WNOHANG, nil)
		if err != syscall.EINTR {
			return got, err
		}
	}
}

func exitOfReaped(pidfd int) (status syscall.WaitStatus, known bool) {
	info := unix.PidfdInfo{Mask: unix.PIDFD_INFO_EXIT}
	if err := unix.IoctlPidfdInfo(pidfd, &info); err != nil || info.Mask&unix.PIDFD_INFO_EXIT == 0 {
		return 0, false
	}
	return syscall.WaitStatus(info.Exit_code), true
}

func exitOfZombie(p *Process) (status syscall.WaitStatus, known bool) {
	st, err := readStat(p.id.PID)
	if err != nil || st.State != 'Z' || st.StartTicks != p.id.StartTicks || !p.told {
		return 0, false
	}
	return syscall.WaitStatus(st.ExitCode), true
}

// finalCPU reads the CPU clock of a process that has ended, which it has as long as it is a zombie. A child is one until
// it is reaped here. An adopted one may go at any time and its pid be another's, so that it has to be there before and
// after the reading.
func finalCPU(p *Process) (used time.Duration, known bool) {
	if !p.child && !isZombie(p.id) {
		return 0, false
	}
	used, err := stillClock(p.id.PID)
	return used, err == nil && (p.child || isZombie(p.id))
}

// stillClock reads the clock of a zombie when it stands: a thread leaves its CPU some microseconds after it has ended.
func stillClock(pid int) (time.Duration, error) {
	const most = 100 // some 50 us
	last := time.Duration(-1)
	for range most {
		now, err := CPUTime(pid)
		if err != nil || now == last {
			return now, err
		}
		last = now
	}
	return last, nil
}

func isZombie(id types.ProcessIdentity) bool {
	st, err := readStat(id.PID)
	return err == nil && st.State == 'Z' && st.StartTicks == id.StartTicks
}

// Crashed tells whether a signal is one that a program gets for a fault of its own. SIGSYS is what a sandbox answers to a
// system call that a VMM should not need.
func Crashed(s syscall.Signal) bool {
	switch s {
	case syscall.SIGABRT, syscall.SIGSEGV, syscall.SIGBUS, syscall.SIGILL, syscall.SIGFPE, syscall.SIGSYS, syscall.SIGTRAP:
		return true
	}
	return false
}
