package cloudhypervisor

import (
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/unkeyed/unkey/go/deploy/metald/internal/backend/stubvmm/rust"
)

// devices opens what the config names. What could not be opened is gone from the config: disks and interfaces are taken
// out of it to be opened, and come back when all are.
func (m *machine) devices(c *vmConfig) *fault {
	disks := c.Disks
	c.Disks = nil
	for i := range disks {
		if f := m.addDisk(&disks[i]); f != nil {
			return f
		}
	}
	c.Disks = disks
	nets := c.Net
	c.Net = nil
	for i := range nets {
		if f := m.addNet(&nets[i]); f != nil {
			return f
		}
	}
	c.Net = nets
	fd, err := unix.Open(string(c.RNG.Src), unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return causedBy(err, "Cannot create virtio-rng device")
	}
	unix.Close(fd)
	return nil
}

// name gives a device an id if it has none, and a place on the bus.
func (m *machine) name(id **string, kind string) (place string) {
	if *id == nil {
		name := fmt.Sprintf("_%s%d", kind, m.next)
		*id = &name
	}
	m.next++
	return fmt.Sprintf("0000:00:%02x.0", m.next)
}

func (m *machine) addDisk(c *diskConfig) *fault {
	d, f := openDisk(c)
	if f != nil {
		return f
	}
	m.name(&c.ID, "disk")
	d.id = *c.ID
	m.disks = append(m.disks, d)
	m.count[d.id] = diskCounts()
	return nil
}

func (m *machine) addNet(c *netConfig) *fault {
	n := &nic{}
	if len(c.FDs) > 0 {
		for _, fd := range c.FDs {
			dup, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 3)
			if err != nil {
				closeAll(n.fds)
				return causedBy(err, "Cannot create virtio-net device", "Open tap device failed")
			}
			n.fds = append(n.fds, dup)
			if f := isTap(dup); f != nil {
				closeAll(n.fds)
				return f
			}
		}
	} else {
		var f *fault
		if n.fds, f = openTap(c); f != nil {
			return f
		}
	}
	m.name(&c.ID, "net")
	n.id = *c.ID
	m.nets = append(m.nets, n)
	m.count[n.id] = netCounts()
	return nil
}

// place is what is told of a device that was added to a guest that runs.
type place struct {
	ID  string `json:"id"`
	BDF string `json:"bdf"`
}

// addNet adds an interface, on the open files that came with the call if some did.
func (v *vmm) addNet(r request) (any, *fault) {
	c := netConfig{}
	if f := decode(r.Body, &c); f != nil {
		return nil, f
	}
	if c.MAC == nil {
		v.forbidden() // one is drawn, by the thread of the API
	}
	c.complete()
	if v.config == nil {
		return nil, says("VM is not created").as(noVM)
	}
	tried := *v.config
	tried.Net = append(append([]netConfig{}, v.config.Net...), c)
	if f := tried.validate(); f != nil {
		return nil, f
	}
	for _, file := range r.Files {
		fd, err := unix.FcntlInt(uintptr(file), unix.F_DUPFD_CLOEXEC, 3)
		if err != nil {
			return nil, causedBy(err, "Failed to duplicate the file")
		}
		v.attached = append(v.attached, fd)
		c.FDs = append(c.FDs, fdNumber(fd))
	}
	return v.added(func() *fault { return v.machine.addNet(&c) }, func() *string { v.config.Net = append(v.config.Net, c); return c.ID })
}

func (v *vmm) addDisk(r request) (any, *fault) {
	c := diskConfig{}
	if f := decode(r.Body, &c); f != nil {
		return nil, f
	}
	c.complete()
	if v.config == nil {
		return nil, says("VM is not created").as(noVM)
	}
	tried := *v.config
	tried.Disks = append(append([]diskConfig{}, v.config.Disks...), c)
	if f := tried.validate(); f != nil {
		return nil, f
	}
	return v.added(func() *fault {
		f := v.machine.addDisk(&c)
		if f == nil {
			f = v.machine.disks[len(v.machine.disks)-1].lock()
		}
		return f
	}, func() *string { v.config.Disks = append(v.config.Disks, c); return c.ID })
}

// added puts a device into the config, and before that into the guest, if there is one.
func (v *vmm) added(plug func() *fault, keep func() *string) (any, *fault) {
	if v.machine == nil {
		keep()
		return nil, nil
	}
	if f := plug(); f != nil {
		return nil, f.under("Error from device manager")
	}
	at := fmt.Sprintf("0000:00:%02x.0", v.machine.next+1) // behind those that are always there
	return place{*keep(), at}, nil
}

// removeDevice takes a device out of the config; a guest that runs is only asked to let it go.
func (v *vmm) removeDevice(r request) (any, *fault) {
	var body removeDeviceData
	if f := decode(r.Body, &body); f != nil {
		return nil, f
	}
	if v.config == nil {
		return nil, says("VM is not created").as(noVM)
	}
	known := false
	for i, d := range v.config.Disks {
		if d.ID != nil && *d.ID == body.ID {
			known = true
			v.config.Disks = append(v.config.Disks[:i:i], v.config.Disks[i+1:]...)
			break
		}
	}
	for i, n := range v.config.Net {
		if n.ID != nil && *n.ID == body.ID {
			known = true
			v.config.Net = append(v.config.Net[:i:i], v.config.Net[i+1:]...)
			break
		}
	}
	if !known && v.machine == nil {
		return nil, says(fmt.Sprintf("No device with id %q to remove", body.ID)).as(noDevice)
	}
	if !known {
		return nil, says("Error from device manager", "Failed to find device corresponding to the given identifier: "+body.ID).as(noDevice)
	}
	return nil, nil
}

type (
	removeDeviceData struct {
		_  struct{} `serde:"open"`
		ID string   `json:"id"`
	}
	resizeData struct {
		_       struct{}    `serde:"open"`
		VCPUs   *uint32     `json:"desired_vcpus"`
		RAM     *rust.USize `json:"desired_ram"`
		Balloon *rust.USize `json:"desired_balloon"`
	}
)

// resize changes what has room to be changed, and is content where there is none.
func (v *vmm) resize(r request) (any, *fault) {
	var body resizeData
	if f := decode(r.Body, &body); f != nil {
		return nil, f
	}
	if v.config == nil {
		return nil, says("VM is not created").as(noVM)
	}
	if v.machine == nil {
		set(&v.config.CPUs.Boot, body.VCPUs)
		set(&v.config.Memory.Size, (*uint64)(body.RAM))
		return nil, nil
	}
	v.events.say("vm", "resizing", nil)
	if n := body.VCPUs; n != nil && *n > v.config.CPUs.Max && v.config.CPUs.Max > v.config.CPUs.Boot {
		return nil, says("Error from CPU manager", "Requested vCPUs exceed maximum")
	} else if n != nil && *n > 0 && *n <= v.config.CPUs.Max {
		v.config.CPUs.Boot = *n
	}
	v.events.say("vm", "resized", nil)
	return nil, nil
}

func set[T any](to, from *T) {
	if from != nil {
		*to = *from
	}
}
