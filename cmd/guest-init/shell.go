package main

import (
	"context"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/unkeyed/unkey/go/deploy/metald/internal/guest"
)

// serveShell keeps a shell on the console until ctx ends. The shell is the only source of processes here, so this is
// also where the orphans that process 1 inherits are reaped.
func serveShell(ctx context.Context) {
	for ctx.Err() == nil {
		pid, err := startShell()
		if err != nil {
			say(guest.Prefix + "shell: " + err.Error())
			return
		}
		reapUntil(pid)
		if ctx.Err() == nil {
			say(guest.ShellExited)
		}
	}
}

// startShell makes the console the shell's controlling terminal, so that Ctrl-C reaches what runs in it.
func startShell() (int, error) {
	return syscall.ForkExec("/bin/sh", []string{"-sh"}, &syscall.ProcAttr{
		Dir:   "/root",
		Env:   []string{"HOME=/root", "PATH=/sbin:/bin", "TERM=vt102", "PS1=guest# "},
		Files: []uintptr{0, 1, 2},
		Sys:   &syscall.SysProcAttr{Setsid: true, Setctty: true, Ctty: 0},
	})
}

func reapUntil(pid int) {
	for {
		reaped, err := unix.Wait4(-1, nil, 0, nil)
		if reaped == pid || (err != nil && err != unix.EINTR) {
			return
		}
	}
}

// endProcesses ends everything but process 1, first kindly; an interactive shell heeds SIGHUP only. Without children
// there is nothing to wait for.
func endProcesses() {
	_ = unix.Kill(-1, unix.SIGTERM)
	_ = unix.Kill(-1, unix.SIGHUP)
	for range 10 {
		err := unix.Waitid(unix.P_ALL, 0, nil, unix.WEXITED|unix.WNOHANG|unix.WNOWAIT, nil)
		if err == unix.ECHILD {
			return
		}
		time.Sleep(20 * time.Millisecond)
	}
	_ = unix.Kill(-1, unix.SIGKILL)
}
