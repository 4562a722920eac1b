package qemu

import (
	"strings"
	"time"

	"github.com/unkeyed/unkey/go/deploy/metald/internal/guest"
)

// guest plays the tests' guest. It does nothing while the machine is stopped.
func (v *vmm) guest() {
	v.waitRunning()
	if v.knobs.Boot > 0 {
		v.sleep(v.knobs.Boot)
	}
	if v.opts.accel == "kvm" && v.opts.initrd == "" && len(v.opts.disks) == 0 {
		v.console.say("VFS: Unable to mount root fs on unknown-block(0,0)")
		v.guestEnds("guest-reset")
		return
	}
	v.mu.Lock()
	v.pressed = false // a press before anybody listened is lost
	v.mu.Unlock()
	v.console.say(guest.Marker)
	go v.button()
	v.work()
	if v.wishes.Count {
		go v.count()
	}
	if v.wishes.Flood {
		go v.flood()
	}
	if v.wishes.Exit == "" {
		return
	}
	v.sleep(v.wishes.After)
	v.end(v.wishes.Exit)
}

// work does what has an end.
func (v *vmm) work() {
	for _, path := range v.wishes.Touch {
		if len(v.opts.disks) > 0 && v.opts.node(v.opts.disks[0].node).ReadOnly {
			v.console.say(guest.TouchRefused(path, "EROFS"))
		} else {
			v.console.say(guest.TouchAccepted(path))
		}
	}
	if v.wishes.Write > 0 {
		v.mu.Lock()
		v.wrote += v.wishes.Write
		v.mu.Unlock()
		v.console.say(guest.Wrote(v.wishes.Write, v.wishes.WriteTo))
	}
	for range v.wishes.Burners {
		if v.wishes.Burn != 0 {
			go v.burn()
		}
	}
}

func (v *vmm) burn() {
	for began := time.Now(); v.wishes.Burn == guest.Forever || time.Since(began) < v.wishes.Burn; {
		v.waitRunning()
		for busy := time.Now(); time.Since(busy) < time.Millisecond; {
		}
	}
}

func (v *vmm) count() {
	for n := 1; ; n++ {
		v.sleep(time.Second)
		v.console.say(guest.Second(n))
	}
}

// flood writes as fast as the console takes it, in pieces as a serial port's would be.
func (v *vmm) flood() {
	filler := strings.Repeat(" and on", 8)
	for n := 1; ; n++ {
		v.waitRunning()
		v.console.say(guest.FloodLine(n, filler))
	}
}

// button waits for the power button.
func (v *vmm) button() {
	for {
		v.mu.Lock()
		for !v.pressed || v.status != "running" {
			v.changed.Wait()
		}
		v.pressed = false
		v.mu.Unlock()
		if v.wishes.Power == guest.PowerHonour {
			v.console.say(guest.PowerButton)
			v.end(guest.ExitPowerOff)
			return
		}
		v.console.say(guest.PowerButton + guest.Ignored)
	}
}

// end is what the guest does at its end, and what QEMU makes of it.
func (v *vmm) end(how string) {
	switch how {
	case guest.ExitPowerOff:
		v.console.say(guest.PoweringOff)
		v.guestEnds("guest-shutdown")
	case guest.ExitReboot:
		v.console.say(guest.Restarting)
		v.guestEnds("guest-reset")
	case guest.ExitPanic:
		v.console.say(guest.Panicking)
		v.console.say("[    1.000000] Kernel panic - not syncing: sysrq triggered crash")
		v.console.say("[    1.000001] ---[ end Kernel panic - not syncing: sysrq triggered crash ]---")
		v.guestEnds("guest-reset")
	}
}

func (v *vmm) waitRunning() {
	v.mu.Lock()
	defer v.mu.Unlock()
	for v.status != "running" {
		v.changed.Wait()
	}
}

// sleep passes guest time, which stands still while the machine is stopped.
func (v *vmm) sleep(d time.Duration) {
	const step = 10 * time.Millisecond
	for d > 0 {
		v.waitRunning()
		time.Sleep(min(d, step))
		d -= step
	}
}
