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

// host is what the host may ask for, and what comes of it.
type host struct {
	policy string // guest.PowerHonour or guest.PowerIgnore
	end    chan<- ending
	// signals: ctrl-alt-del comes as SIGINT, from the kernel's virtual terminals (CONFIG_VT). Without them it is looked
	// for among the keys. Not both, so that one press is told once.
	signals bool
}

// keys is what is held down on one keyboard.
type keys struct{ ctrl, alt bool }

func (k *keys) press(code uint16, down bool, h host) {
	switch code {
	case keyLeftCtrl, keyRightCtrl:
		k.ctrl = down
	case keyLeftAlt, keyRightAlt:
		k.alt = down
	case keyPowerOff:
		if down {
			h.asks(guest.PowerButton, powerOff())
		}
	case keyDelete, keyKeypadDot:
		if down && k.ctrl && k.alt && !h.signals {
			h.asks(guest.CtrlAltDel, restart())
		}
	}
}

// asks obeys or ignores a request from the host, and says which.
func (h host) asks(line string, e ending) {
	if h.policy == guest.PowerIgnore {
		say(line + guest.Ignored)
		return
	}
	say(line)
	e.ask(h.end)
}

// catchSignals is to be called before the guest says that it is up: until then the kernel restarts at once, with dirty
// disks, when ctrl-alt-del is pressed.
func catchSignals() <-chan os.Signal {
	signals := make(chan os.Signal, 16)
	signal.Notify(signals, unix.SIGINT, unix.SIGUSR1, unix.SIGUSR2, unix.SIGTERM)
	_ = unix.Reboot(unix.LINUX_REBOOT_CMD_CAD_OFF)
	return signals
}

// watchSignals obeys signals: SIGINT is the kernel's for ctrl-alt-del; SIGUSR1, SIGUSR2 and SIGTERM come from busybox's
// halt, poweroff and reboot. Ctrl-alt-del restarts, which is what it means and how a guest of Firecracker ends.
func watchSignals(signals <-chan os.Signal, h host) {
	for s := range signals {
		switch s {
		case unix.SIGINT:
			h.asks(guest.CtrlAltDel, restart())
		case unix.SIGTERM:
			restart().ask(h.end)
		default:
			powerOff().ask(h.end)
		}
	}
}
