package firecracker

import (
	"strings"
	"time"

	"github.com/unkeyed/unkey/go/deploy/metald/internal/guest"
)

// guest plays the tests' guest. It does nothing while the machine is paused.
func (v *vmm) guest() {
	v.waitRunning()
	v.sleep(v.knobs.Boot)
	v.mu.Lock()
	v.keys = 0 // a press before anybody listened is lost
	v.mu.Unlock()
	if v.bare {
		v.findNoRoot()
		return
	}
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
	v.finish(v.wishes.Exit)
}

// work does what has an end.
func (v *vmm) work() {
	root, known := v.target(guest.WriteFile)
	for _, path := range v.wishes.Touch {
		if known && root.readOnly() {
			v.console.say(guest.TouchRefused(path, "EROFS"))
		} else {
			v.console.say(guest.TouchAccepted(path))
		}
	}
	if d, ok := v.target(v.wishes.WriteTo); ok && v.wishes.Write > 0 && !d.readOnly() {
		n := uint64(v.wishes.Write)
		v.metrics.count("block", d.DriveID, map[string]uint64{
			"write_bytes": n, "write_count": n/(1<<20) + 1, "flush_count": n/(1<<20) + 1, "queue_event_count": 1,
		})
		v.console.say(guest.Wrote(v.wishes.Write, v.wishes.WriteTo))
	}
	for range v.wishes.Burners {
		if v.wishes.Burn != 0 {
			go v.burn()
		}
	}
}

// target is the disk behind a path of the guest's: /dev/vdb is the second, and a file is on the first.
func (v *vmm) target(path string) (drive, bool) {
	v.mu.Lock()
	defer v.mu.Unlock()
	at := 0
	if letter, ok := strings.CutPrefix(path, "/dev/vd"); ok && len(letter) == 1 {
		at = int(letter[0] - 'a')
	}
	if at < 0 || at >= len(v.drives) {
		return drive{}, false
	}
	return v.drives[at], true
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

// flood writes faster than a serial port would let it.
func (v *vmm) flood() {
	filler := strings.Repeat(" and on", 8)
	for n := 1; ; n++ {
		v.waitRunning()
		v.console.say(guest.FloodLine(n, filler))
		if n%100 == 0 {
			time.Sleep(time.Millisecond)
		}
	}
}

// button waits for Ctrl-Alt-Del, which is a restart.
func (v *vmm) button() {
	for {
		v.mu.Lock()
		for v.keys == 0 || v.state != running || v.halted {
			v.changed.Wait()
		}
		v.keys = 0
		v.mu.Unlock()
		if v.wishes.Power == guest.PowerHonour {
			v.console.say(guest.CtrlAltDel)
			v.finish(guest.ExitReboot)
			return
		}
		v.console.say(guest.CtrlAltDel + guest.Ignored)
	}
}

// finish is what the guest does at its end, and what Firecracker makes of it: only a restart ends the process.
func (v *vmm) finish(how string) {
	switch how {
	case guest.ExitPowerOff:
		v.console.say(guest.PoweringOff)
		v.console.say("[    1.000000] reboot: System halted")
		v.halt()
		return
	case guest.ExitReboot:
		v.console.say(guest.Restarting)
		v.console.say("[    1.000000] reboot: Restarting system")
	case guest.ExitPanic:
		v.console.say(guest.Panicking)
		v.console.say("[    1.000000] Kernel panic - not syncing: sysrq triggered crash")
		seconds, ok := v.word("panic")
		if !ok || seconds == "0" {
			v.halt()
			return
		}
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	for v.state != running {
		v.changed.Wait()
	}
	v.log.log(levelInfo, mainThread, "Vmm is stopping.")
	v.metrics.inc("i8042.reset_count")
	v.end(0)
}

// halt ends the guest and not the machine: nobody reads the keyboard any more.
func (v *vmm) halt() {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.halted = true
}

// word is the value of an argument of the kernel's.
func (v *vmm) word(name string) (value string, ok bool) {
	for _, w := range strings.Fields(v.cmdline) {
		if n, val, _ := strings.Cut(w, "="); n == name {
			value, ok = val, true
		}
	}
	return value, ok
}

// waitRunning waits while the machine is paused, and for ever once the guest is halted.
func (v *vmm) waitRunning() {
	v.mu.Lock()
	defer v.mu.Unlock()
	for v.state != running || v.halted {
		v.changed.Wait()
	}
}

// sleep passes guest time, which stands still while the machine is paused.
func (v *vmm) sleep(d time.Duration) {
	const step = 10 * time.Millisecond
	for d > 0 {
		v.waitRunning()
		time.Sleep(min(d, step))
		d -= step
	}
}
