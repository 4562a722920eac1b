package qemu

import (
	"fmt"
	"net"
	"os"
	"sync"
	"syscall"
	"time"
	"unsafe"

	"github.com/unkeyed/unkey/go/deploy/metald/internal/guest"
)

// vmm is the state of the machine, under one lock, as QEMU's is.
type vmm struct {
	opts     *options
	knobs    knobs
	wishes   guest.Options
	monitors []*monitor
	console  *console // nil without one
	ended    chan struct{}

	mu      sync.Mutex
	changed sync.Cond // status or pressed
	status  string
	pressed bool // the power button
	over    bool
	began   bool  // the guest ran
	wrote   int64 // bytes, to the first disk
}

func newVMM(o *options, k knobs, wishes guest.Options) (*vmm, error) {
	v := &vmm{opts: o, knobs: k, wishes: wishes, ended: make(chan struct{}), status: "prelaunch"}
	v.changed.L = &v.mu
	for _, id := range o.monitors {
		l, err := listener(o.chardevs[id].fd)
		if err != nil {
			return nil, fmt.Errorf("-chardev %s: %w", id, err)
		}
		v.monitors = append(v.monitors, &monitor{vmm: v, listener: l})
	}
	if o.serial == "" {
		return v, nil
	}
	v.console = &console{}
	if fd := o.chardevs[o.serial].fd; fd == 1 {
		v.console.conn = os.Stdout
		return v, nil
	}
	l, err := listener(o.chardevs[o.serial].fd)
	v.console.listener = l
	return v, err
}

// listener takes over a socket that it inherited, and listens on it again as QEMU does: so its peers see its own pid.
func listener(fd int) (*net.UnixListener, error) {
	if err := syscall.Listen(fd, 1); err != nil {
		return nil, os.NewSyscallError("listen", err)
	}
	f := os.NewFile(uintptr(fd), "listener")
	defer f.Close()
	l, err := net.FileListener(f)
	if err != nil {
		return nil, err
	}
	return l.(*net.UnixListener), nil
}

// cont lets the guest run. A guest that runs already is no event. One that has ended would have to be reset first.
func (v *vmm) cont() {
	v.console.begin()
	v.mu.Lock()
	idle := v.status == "running" || v.status == "shutdown" || v.over || v.knobs.NotRun
	v.mu.Unlock()
	if idle {
		return
	}
	v.event("RESUME", nil) // before the guest can do anything
	v.mu.Lock()
	v.began = true
	v.setStatus("running")
	v.mu.Unlock()
	if v.knobs.Crash {
		abort()
	}
	if v.knobs.Full {
		v.knobs.Full = false
		time.AfterFunc(100*time.Millisecond, v.full)
	}
}

// stop stops it; one that does not run stays as it is.
func (v *vmm) stop() {
	v.mu.Lock()
	running := v.status == "running"
	if running {
		v.setStatus("paused")
	}
	v.mu.Unlock()
	if running {
		v.event("STOP", nil)
	}
}

// full stops the guest as a disk that has no room does.
func (v *vmm) full() {
	v.mu.Lock()
	v.setStatus("io-error")
	v.mu.Unlock()
	v.event("STOP", nil)
}

// setStatus is called with mu held.
func (v *vmm) setStatus(status string) {
	v.status = status
	v.changed.Broadcast()
}

func (v *vmm) powerdown() {
	v.event("POWERDOWN", nil)
	v.mu.Lock()
	defer v.mu.Unlock()
	v.pressed = true
	v.changed.Broadcast()
}

// guestEnds stops the machine: QEMU runs with -action shutdown=pause, and with -no-reboot, so a reset does so too. It
// waits then to be told to quit.
func (v *vmm) guestEnds(reason string) {
	v.mu.Lock()
	ends := !v.over && v.status == "running"
	if ends {
		v.setStatus("shutdown")
	}
	v.mu.Unlock()
	if ends {
		v.event("SHUTDOWN", map[string]any{"guest": true, "reason": reason})
		v.event("STOP", nil)
	}
}

func (v *vmm) guestOver() bool {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.status == "shutdown"
}

// shutdown ends the VMM.
func (v *vmm) shutdown(reason string) {
	v.mu.Lock()
	first := !v.over
	v.over = true
	v.mu.Unlock()
	if first {
		v.event("SHUTDOWN", map[string]any{"guest": false, "reason": reason})
		close(v.ended)
	}
}

func (v *vmm) event(name string, data map[string]any) {
	now := time.Now()
	e := map[string]any{"event": name, "timestamp": map[string]int64{"seconds": now.Unix(), "microseconds": int64(now.Nanosecond()) / 1000}}
	if data != nil {
		e["data"] = data
	}
	for _, m := range v.monitors {
		m.event(e)
	}
}

// close ends the connections and removes the sockets, as QEMU does at an orderly end.
func (v *vmm) close() {
	for _, m := range v.monitors {
		os.Remove(m.listener.Addr().String())
	}
	if v.console != nil && v.console.listener != nil {
		os.Remove(v.console.listener.Addr().String())
	}
}

// abort ends the process as abort(3) does: Go's own handler of the signal is taken away first.
func abort() {
	fmt.Fprintln(os.Stderr, "qemu-system-x86_64: Assertion `false' failed.")
	var byDefault struct{ handler, flags, restorer, mask uintptr }
	_, _, _ = syscall.RawSyscall6(syscall.SYS_RT_SIGACTION, uintptr(syscall.SIGABRT), uintptr(unsafe.Pointer(&byDefault)), 0, 8, 0, 0)
	_ = syscall.Kill(os.Getpid(), syscall.SIGABRT)
	select {}
}
