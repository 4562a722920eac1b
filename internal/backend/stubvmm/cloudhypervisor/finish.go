package cloudhypervisor

import (
	"github.com/unkeyed/unkey/go/deploy/metald/internal/guest"
)

// button waits for the power button.
func (m *machine) button() {
	for {
		m.v.mu.Lock()
		for !m.gone && (m.presses == 0 || m.state != running || m.halted) {
			m.v.changed.Wait()
		}
		m.presses = 0
		gone := m.gone
		m.v.mu.Unlock()
		if gone {
			return
		}
		if m.wishes.Power == guest.PowerHonour {
			m.say(guest.PowerButton)
			m.finish(guest.ExitPowerOff)
			return
		}
		m.say(guest.PowerButton + guest.Ignored)
	}
}

// finish is what the guest does at its end, and what Cloud Hypervisor makes of it.
func (m *machine) finish(how string) {
	switch how {
	case guest.ExitPowerOff:
		m.say(guest.PoweringOff)
		m.say("[    1.000000] reboot: Power down")
		m.after(m.v.guestExit)
	case guest.ExitReboot:
		m.say(guest.Restarting)
		m.say("[    1.000000] reboot: Restarting system")
		m.after(m.v.guestReset)
	case guest.ExitPanic:
		m.say(guest.Panicking)
		m.say("[    1.000000] Kernel panic - not syncing: sysrq triggered crash")
		if m.panics {
			m.v.events.say("guest", "panic", map[string]string{"event": "panic"})
		}
		delay, restarts := m.panicDelay()
		if !restarts {
			m.halt()
			return
		}
		m.sleep(delay)
		m.after(m.v.guestReset)
	}
}

// after lets the VMM do what follows the end of the guest, if it is not over with it yet.
func (m *machine) after(do func()) {
	m.v.mu.Lock()
	defer m.v.mu.Unlock()
	m.waitLocked()
	if m.v.ended {
		return
	}
	if m.knobs.Hold {
		m.halted = true
		return
	}
	do()
}

// guestExit is the end of a guest that switched itself off.
func (v *vmm) guestExit() {
	if v.noShutdown {
		v.stop()
		return
	}
	v.end()
}

// guestReset boots the guest anew in the same process, which ends if that fails.
func (v *vmm) guestReset() {
	if f := v.reboot(); f != nil {
		v.log.log(levelError, "vmm", "reboot: %s", f.chain)
		v.finish(exitError)
	}
}

// halt ends the guest and not the VM.
func (m *machine) halt() {
	m.v.mu.Lock()
	defer m.v.mu.Unlock()
	m.halted = true
}
