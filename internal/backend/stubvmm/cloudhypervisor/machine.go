package cloudhypervisor

import (
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/unkeyed/unkey/go/deploy/metald/internal/guest"
)

// machine is a VM from its boot to its end; a reboot makes another. What changes of it is under the lock of the vmm.
type machine struct {
	v       *vmm
	cmdline string
	wishes  guest.Options
	knobs   knobs
	lines   *lines
	panics  bool // it has a device to say so

	state   string
	gone    bool
	halted  bool // the guest
	presses int  // of the power button, which nobody has seen
	next    int  // the place on the bus for the next device
	disks   []*disk
	nets    []*nic
	count   map[string]counts
}

// nic is an interface that is open.
type nic struct {
	id  string
	fds []int
}

func (m *machine) close() {
	for _, d := range m.disks {
		unix.Close(d.fd)
	}
	for _, n := range m.nets {
		closeAll(n.fds)
	}
}

// boot builds the VM and starts its guest. Where it fails decides whether there is a VM afterwards.
func (v *vmm) boot() *fault {
	if v.machine != nil {
		return says("VM is already created")
	}
	v.events.say("vm", "booting", nil)
	if v.config == nil {
		return says("VM config is missing").as(noVM)
	}
	time.Sleep(v.knobs.SlowBoot)
	if v.lines == nil {
		if f := v.openLines(); f != nil {
			return f
		}
	}
	m, f := v.build()
	if f != nil {
		return f
	}
	v.machine = m
	if f := m.start(); f != nil {
		return f
	}
	v.events.say("vm", "booted", nil)
	return nil
}

// build is the part of a boot that leaves nothing behind if it fails.
func (v *vmm) build() (*machine, *fault) {
	c := v.config
	if f := c.validate(); f != nil {
		return nil, f
	}
	if t := c.CPUs.Topology; t != nil && t.hasZero() {
		return nil, v.panics("attempt to calculate the remainder with a divisor of zero")
	}
	if f := c.Memory.check(); f != nil {
		return nil, f.under("Memory manager error")
	}
	if p := c.Payload.Initramfs; p != nil {
		fd, err := unix.Open(string(*p), unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err != nil {
			return nil, causedBy(err, "Cannot open initramfs file")
		}
		unix.Close(fd)
	}
	m := &machine{v: v, state: created, lines: v.lines, knobs: v.knobs, panics: c.PVPanic, count: map[string]counts{}}
	if f := m.devices(c); f != nil {
		m.close()
		return nil, f.under("Error from device manager")
	}
	return m, nil
}

// start is the part of a boot after which there is a VM, be it one that does not run.
func (m *machine) start() *fault {
	for _, d := range m.disks {
		if f := d.lock(); f != nil {
			return f
		}
	}
	p := m.v.config.Payload
	switch {
	case p.Kernel == nil:
		return says("the stand-in boots no firmware")
	default:
		if f := checkKernel(string(*p.Kernel), m.v.config.Memory.Size); f != nil {
			return f
		}
	}
	if p.Cmdline != nil {
		m.cmdline = *p.Cmdline
	}
	if err := m.knobs.parse(strings.Fields(m.cmdline)); err != nil {
		return says(err.Error())
	}
	m.wishes, _ = guest.ParseOptions(m.cmdline) // a guest passes over what it does not know
	m.state = running
	switch {
	case m.knobs.Crash:
		killedBy(unix.SIGABRT)
	case !m.knobs.NotRun:
		go m.guest()
	}
	return nil
}

// check is what of the memory is found out when it is mapped.
func (m *memoryConfig) check() *fault {
	page := uint64(4096)
	if m.HugePages {
		page = 2 << 20
		if m.HugePageSize != nil {
			page = *m.HugePageSize
		}
	}
	switch {
	case m.Size == 0:
		return says("No memory zones found")
	case m.Size%page != 0:
		return says("Memory size is misaligned with default page size or its hugepage size")
	}
	var fs unix.Statfs_t
	if m.HugePages && m.HugePageSize == nil {
		if err := unix.Statfs("/dev/hugepages", &fs); err != nil {
			return causedBy(err, "Failed to stat filesystem")
		}
	}
	return nil
}
