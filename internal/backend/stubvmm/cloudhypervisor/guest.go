package cloudhypervisor

import (
	"runtime"
	"strconv"
	"strings"
	"time"

	"github.com/unkeyed/unkey/go/deploy/metald/internal/guest"
)

// guest plays the tests' guest. It does nothing while the VM is paused, and ends where it stands when the VM is gone.
func (m *machine) guest() {
	m.sleep(m.knobs.Boot)
	m.readRoot()
	m.v.mu.Lock()
	m.presses = 0 // a press before anybody listened is lost
	m.v.mu.Unlock()
	m.say(guest.Marker)
	go m.button()
	if m.knobs.Traffic > 0 {
		go m.traffic()
	}
	m.work()
	if m.wishes.Count {
		go m.countSeconds()
	}
	if m.wishes.Flood {
		go m.flood()
	}
	if m.wishes.Exit == "" {
		return
	}
	m.sleep(m.wishes.After)
	m.finish(m.wishes.Exit)
}

// say speaks on the last console of the kernel's arguments; without one nobody hears.
func (m *machine) say(text string) {
	m.waitRunning()
	name, _ := m.word("console")
	name, _, _ = strings.Cut(name, ",")
	switch name {
	case "ttyS0":
		m.lines.serial.say(text)
	case "hvc0":
		m.lines.console.say(text)
	}
}

// readRoot reads what a mount would at least, from the first disk.
func (m *machine) readRoot() {
	m.waitRunning()
	m.v.mu.Lock()
	defer m.v.mu.Unlock()
	if m.gone || len(m.disks) == 0 {
		return
	}
	if n, err := m.disks[0].readStart(); err == nil {
		m.count[m.disks[0].id].did("read", uint64(n), 1)
	}
}

// work does what has an end.
func (m *machine) work() {
	m.touch()
	m.write()
	for range m.wishes.Burners {
		if m.wishes.Burn != 0 {
			go m.burn()
		}
	}
}

func (m *machine) touch() {
	for _, path := range m.wishes.Touch {
		m.v.mu.Lock()
		d := m.target(path)
		m.v.mu.Unlock()
		switch {
		case d != nil && d.readOnly:
			m.say(guest.TouchRefused(path, "EROFS"))
		default:
			m.say(guest.TouchAccepted(path))
		}
	}
}

// write writes to a disk; what goes into a file on the first is only counted, since the guest knows no file systems.
func (m *machine) write() {
	n := m.wishes.Write
	if n <= 0 {
		return
	}
	m.waitRunning()
	m.v.mu.Lock()
	d := m.target(m.wishes.WriteTo)
	if m.gone || d == nil || d.readOnly {
		m.v.mu.Unlock()
		return
	}
	wrote := n
	if m.wishes.WriteTo != guest.WriteFile {
		wrote, _ = d.write(n)
	}
	m.count[d.id].did("write", uint64(wrote), uint64(wrote)/(1<<20)+1)
	m.v.mu.Unlock()
	if wrote == n {
		m.say(guest.Wrote(n, m.wishes.WriteTo))
	}
}

// target is the disk behind a path of the guest's: /dev/vdb is the second, and a file is on the first.
func (m *machine) target(path string) *disk {
	at := 0
	if letter, ok := strings.CutPrefix(path, "/dev/vd"); ok && len(letter) == 1 {
		at = int(letter[0] - 'a')
	}
	if at < 0 || at >= len(m.disks) {
		return nil
	}
	return m.disks[at]
}

func (m *machine) burn() {
	for began := time.Now(); m.wishes.Burn == guest.Forever || time.Since(began) < m.wishes.Burn; {
		m.waitRunning()
		for busy := time.Now(); time.Since(busy) < time.Millisecond; {
		}
	}
}

func (m *machine) countSeconds() {
	for n := 1; ; n++ {
		m.sleep(time.Second)
		m.say(guest.Second(n))
	}
}

// flood writes faster than a serial port would let it.
func (m *machine) flood() {
	filler := strings.Repeat(" and on", 8)
	for n := 1; ; n++ {
		m.say(guest.FloodLine(n, filler))
		if n%100 == 0 {
			time.Sleep(time.Millisecond)
		}
	}
}

func (m *machine) traffic() {
	for {
		m.sleep(10 * time.Millisecond)
		m.v.mu.Lock()
		if len(m.disks) > 0 {
			m.count[m.disks[0].id].did("read", m.knobs.Traffic, 1)
			m.count[m.disks[0].id].did("write", m.knobs.Traffic, 1)
		}
		if len(m.nets) > 0 {
			c := m.count[m.nets[0].id]
			for _, way := range []string{"rx", "tx"} {
				c[way+"_bytes"] += m.knobs.Traffic
				c[way+"_frames"]++
			}
		}
		m.v.mu.Unlock()
	}
}

// word is the value of an argument of the kernel's, of the last of that name.
func (m *machine) word(name string) (value string, ok bool) {
	for _, w := range strings.Fields(m.cmdline) {
		if n, val, _ := strings.Cut(w, "="); n == name {
			value, ok = val, true
		}
	}
	return value, ok
}

// waitRunning waits while the VM is paused, for ever once the guest is halted, and ends the goroutine of a VM that is
// gone.
func (m *machine) waitRunning() {
	m.v.mu.Lock()
	defer m.v.mu.Unlock()
	m.waitLocked()
}

func (m *machine) waitLocked() {
	for !m.gone && (m.state != running || m.halted) {
		m.v.changed.Wait()
	}
	if m.gone {
		runtime.Goexit()
	}
}

// sleep passes guest time, which stands still while the VM is paused.
func (m *machine) sleep(d time.Duration) {
	const step = 10 * time.Millisecond
	for m.waitRunning(); d > 0; d -= step {
		time.Sleep(min(d, step))
		m.waitRunning()
	}
}

// panicDelay is how long the kernel waits before it restarts after a panic; ok is false if it stays where it is.
func (m *machine) panicDelay() (d time.Duration, ok bool) {
	value, _ := m.word("panic")
	seconds, err := strconv.Atoi(value)
	if err != nil || seconds == 0 {
		return 0, false
	}
	return time.Duration(max(seconds, 0)) * time.Second, true
}
