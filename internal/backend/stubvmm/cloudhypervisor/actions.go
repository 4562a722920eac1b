package cloudhypervisor

import "fmt"

func notRunning() *fault { return says("VM is not running") }

// create keeps a config and opens the consoles. If that fails the config is kept nevertheless.
func (v *vmm) create(c *vmConfig) *fault {
	if v.config != nil {
		return says("VM is already created")
	}
	c.complete()
	v.config = c
	return v.openLines()
}

func (v *vmm) delete() *fault {
	v.forget()
	return nil
}

func (v *vmm) shutdown() *fault {
	if v.machine == nil {
		return notRunning()
	}
	v.stop()
	return nil
}

// reboot takes the VM down and boots another. It says that it does before it is sure that it can.
func (v *vmm) reboot() *fault {
	v.events.say("vm", "rebooting", nil)
	if v.machine == nil {
		return says("VM is not created").as(noVM)
	}
	v.drop()
	if f := v.openLines(); f != nil {
		return f
	}
	m, f := v.build()
	if f != nil {
		return f
	}
	if f := m.start(); f != nil {
		m.gone = true
		m.close()
		return f
	}
	v.machine = m
	v.events.say("vm", "rebooted", nil)
	return nil
}

func (v *vmm) pause() *fault { return v.turn("pausing", paused, running, "Cannot pause VM", "pause") }
func (v *vmm) resume() *fault {
	return v.turn("resuming", running, paused, "Cannot resume VM", "resume")
}

func (v *vmm) turn(event, to, from, cannot, verb string) *fault {
	m := v.machine
	if m == nil {
		return notRunning()
	}
	v.events.say("vm", event, nil)
	if m.state != from {
		return says(cannot, fmt.Sprintf("Failed to %s migratable component", verb),
			fmt.Sprintf("Invalid transition: InvalidStateTransition(%s, %s)", m.state, to))
	}
	m.state = to
	v.changed.Broadcast()
	v.events.say("vm", map[string]string{paused: "paused", running: "resumed"}[to], nil)
	return nil
}

func (v *vmm) powerButton() *fault {
	if v.machine == nil {
		return notRunning()
	}
	v.machine.presses++
	v.changed.Broadcast()
	return nil
}

func (v *vmm) nmi() *fault {
	if v.machine == nil {
		return notRunning()
	}
	return nil
}
