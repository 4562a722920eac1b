package main

import (
	"os"
	"os/signal"

	"golang.org/x/sys/unix"

	"github.com/unkeyed/unkey/go/deploy/metald/internal/guest"
)

// From linux/input-event-codes.h.
const (
	evKey        = 1
	keyLeftCtrl  = 29
	keyLeftAlt   = 56
	keyRightCtrl = 97
	keyRightAlt  = 100
	keyKeypadDot = 83
	keyDelete    = 111
	keyPowerOff  = 116
)

// keys is what is held down on one keyboard.
type keys struct{ ctrl, alt bool }

func (k *keys) press(code uint16, down bool, policy string, end chan<- ending) {
	switch code {
	case keyLeftCtrl, keyRightCtrl:
		k.ctrl = down
	case keyLeftAlt, keyRightAlt:
		k.alt = down
	case keyPowerOff:
		if down {
			pressed(guest.PowerButton, powerOff(), policy, end)
		}
	case keyDelete, keyKeypadDot:
		if down && k.ctrl && k.alt {
			pressed(guest.CtrlAltDel, restart(), policy, end)
		}
	}
}

// pressed obeys or ignores a request from the host, and says which.
func pressed(line string, e ending, policy string, end chan<- ending) {
	if policy == guest.PowerIgnore {
		say(line + guest.Ignored)
		return
	}
	say(line)
	e.ask(end)
}

// watchSignals reaps the children and obeys signals: SIGINT is the kernel's for ctrl-alt-del; SIGUSR1, SIGUSR2 and
// SIGTERM come from busybox's halt, poweroff and reboot. Ctrl-alt-del restarts, which is what it means and how a guest
// of Firecracker ends.
func watchSignals(policy string, end chan<- ending) {
	// Without this the kernel restarts at once, with dirty disks.
	_ = unix.Reboot(unix.LINUX_REBOOT_CMD_CAD_OFF)
	signals := make(chan os.Signal, 16)
	signal.Notify(signals, unix.SIGINT, unix.SIGUSR1, unix.SIGUSR2, unix.SIGTERM)
	for s := range signals {
		switch s {
		case unix.SIGINT:
			pressed(guest.CtrlAltDel, restart(), policy, end)
		case unix.SIGTERM:
			restart().ask(end)
		default:
			powerOff().ask(end)
		}
	}
}
