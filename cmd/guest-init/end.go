package main

import (
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/unkeyed/unkey/go/deploy/metald/internal/guest"
)

// ending is a way for the guest to end.
type ending struct {
	say    string // the last words
	reboot int    // for reboot(2); 0: panic the kernel
}

func powerOff() ending { return ending{guest.PoweringOff, unix.LINUX_REBOOT_CMD_POWER_OFF} }
func restart() ending  { return ending{guest.Restarting, unix.LINUX_REBOOT_CMD_RESTART} }
func panics() ending   { return ending{guest.Panicking, 0} }

// ask hands e over; only the first of several counts.
func (e ending) ask(end chan<- ending) {
	select {
	case end <- e:
	default:
	}
}

// carryOut ends the guest. For anything but a panic the work is given a moment to stop, the other processes are ended
// and the disks written and mounted read-only first, so that no journal is left to replay.
func (e ending) carryOut(work *sync.WaitGroup) {
	if e.reboot == 0 {
		sayLast(e.say)
		_ = sysrq("c")
		select {} // the panic is on its way
	}
	endProcesses()
	within(time.Second, work.Wait)
	unix.Sync()
	if err := unix.Mount("", "/", "", unix.MS_REMOUNT|unix.MS_RDONLY, ""); err != nil {
		_ = sysrq("u") // someone still has a file open: remount by force
		unix.Sync()
	}
	sayLast(e.say)
	err := unix.Reboot(e.reboot)
	say(guest.Prefix + "end of the guest: " + errnoName(err))
	select {}
}

// sayLast says the line and waits until the serial port has sent it: the machine's end drops what is still queued.
func sayLast(line string) {
	within(time.Second, func() {
		say(line)
		_ = unix.IoctlSetInt(int(os.Stdout.Fd()), unix.TCSBRK, 1)
	})
}

// within runs f and stops waiting for it after d. Process 1 is about to end, so what goes on is nobody's leak.
func within(d time.Duration, f func()) {
	done := make(chan struct{})
	go func() { defer close(done); f() }()
	select {
	case <-done:
	case <-time.After(d):
	}
}
