package firecracker

import (
	"os"
	"os/signal"
	"runtime"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// intercepted are the signals that end Firecracker with a code of its own, after a last line of metrics.
var intercepted = map[os.Signal]struct {
	counter string
	code    int
}{
	unix.SIGBUS:  {"signals.sigbus", 149},
	unix.SIGSEGV: {"signals.sigsegv", 150},
	unix.SIGXFSZ: {"signals.sigxfsz", 151},
	unix.SIGXCPU: {"signals.sigxcpu", 154},
	unix.SIGHUP:  {"signals.sighup", 156},
	unix.SIGILL:  {"signals.sigill", 157},
	unix.SIGSYS:  {"seccomp.num_faults", 2}, // one that comes from kill(2)
}

// signals obeys signals as Firecracker does. Those that it does not intercept end it, with no last line; a broken pipe
// is only counted.
func (v *vmm) signals() {
	incoming := make(chan os.Signal, 16)
	signal.Notify(incoming, unix.SIGBUS, unix.SIGSEGV, unix.SIGXFSZ, unix.SIGXCPU, unix.SIGHUP, unix.SIGILL, unix.SIGSYS, unix.SIGPIPE)
	for _, s := range []unix.Signal{unix.SIGTERM, unix.SIGINT, unix.SIGQUIT, unix.SIGABRT} {
		byDefault(s)
	}
	go func() {
		for s := range incoming {
			number := s.(unix.Signal)
			if number == unix.SIGPIPE {
				v.metrics.inc("signals.sigpipe")
				v.log.log(levelError, mainThread, "Received signal %d, code 0.", number)
				continue
			}
			v.metrics.set(intercepted[s].counter, 1)
			v.log.log(levelError, mainThread, "Shutting down VM after intercepting signal %d, code 0.", number)
			if err := v.metrics.write(); err != nil {
				v.log.log(levelError, mainThread, "Failed to write metrics while stopping: %v", err)
			}
			os.Exit(intercepted[s].code)
		}
	}()
}

// byDefault takes a signal away from Go's runtime.
func byDefault(s unix.Signal) {
	var action struct{ handler, flags, restorer, mask uintptr }
	_, _, _ = unix.RawSyscall6(unix.SYS_RT_SIGACTION, uintptr(s), uintptr(unsafe.Pointer(&action)), 0, 8, 0, 0)
}

// panics ends the process as a panic of Firecracker's does, which is compiled to abort.
func (v *vmm) panics(message string) {
	v.log.log(levelError, mainThread, "Firecracker panicked at the stand-in:\n%s", message)
	v.metrics.set("vmm.panic_count", 1)
	_ = v.metrics.write()
	abort()
}

// abort does as abort(3) does: where the signal has no effect, as on the first process of a PID namespace, a fault ends
// the process.
func abort() {
	byDefault(unix.SIGABRT)
	byDefault(unix.SIGSEGV)
	runtime.LockOSThread()
	_ = unix.Tgkill(os.Getpid(), unix.Gettid(), unix.SIGABRT) // which has its effect before the call returns
	*(*int)(nil) = 0
}

// forever waits for the end of the process. Without a timer Go's runtime would call it a deadlock.
func forever() {
	for {
		time.Sleep(time.Hour)
	}
}
