package cloudhypervisor

import (
	"fmt"
	"io"
	"os"
	"runtime"
	"strings"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// misbehave does what the knobs say of the time before the socket.
func (v *vmm) misbehave(stderr io.Writer) (code int, ended bool) {
	for range v.knobs.Noise {
		_, _ = syscall.Write(2, []byte(strings.Repeat("it goes wrong and on\n", 49)))
	}
	if v.knobs.Chatter {
		go v.chatter()
	}
	if v.knobs.NoSocket {
		forever()
	}
	time.Sleep(v.knobs.Start)
	if v.knobs.Die != 0 {
		fmt.Fprintln(stderr, "stub-cloud-hypervisor: the stand-in was told to die")
		return v.knobs.Die, true
	}
	return 0, false
}

func (v *vmm) chatter() {
	for n := 1; ; n++ {
		v.log.log(levelError, "vmm", "%s", strings.Repeat("it goes wrong and on, ", 20))
		if n%100 == 0 {
			time.Sleep(time.Millisecond)
		}
	}
}

// byDefault takes a signal away from Go's runtime.
func byDefault(s unix.Signal) {
	var action struct{ handler, flags, restorer, mask uintptr }
	_, _, _ = unix.RawSyscall6(unix.SYS_RT_SIGACTION, uintptr(s), uintptr(unsafe.Pointer(&action)), 0, 8, 0, 0)
}

// killedBy ends the process by a signal of its own.
func killedBy(s unix.Signal) {
	byDefault(s)
	runtime.LockOSThread()
	_ = unix.Tgkill(os.Getpid(), unix.Gettid(), s) // which has its effect before the call returns
	os.Exit(128 + int(s))
}

// forever waits for the end of the process. Without a timer Go's runtime would call it a deadlock.
func forever() {
	for {
		time.Sleep(time.Hour)
	}
}
