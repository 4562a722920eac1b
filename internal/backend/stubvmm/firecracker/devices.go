package firecracker

import (
	"slices"

	"golang.org/x/sys/unix"

	"github.com/unkeyed/unkey/go/deploy/metald/internal/backend/stubvmm/rust"
)

// drive is a disk whose file is open.
type drive struct {
	blockDeviceConfig
	fd int
}

func (d blockDeviceConfig) readOnly() bool { return d.IsReadOnly != nil && *d.IsReadOnly }

// network is an interface; fd is -1 if its tap was not opened.
type network struct {
	networkInterfaceConfig
	fd int
}

func openRead(path string) (int, error) {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, err
	}
	return fd, nil
}

// openDrive opens a disk for what the guest may do with it.
func openDrive(c blockDeviceConfig) (drive, error) {
	const create = "Unable to create the virtio block device: "
	switch {
	case c.PathOnHost == nil && c.Socket != nil:
		return drive{}, faultf("Drive config error: %sthe stand-in has no vhost-user", create)
	case c.PathOnHost == nil, c.Socket != nil:
		return drive{}, faultf("Drive config error: %sInvalid block config.", create)
	}
	mode := unix.O_RDWR
	if c.readOnly() {
		mode = unix.O_RDONLY
	}
	fd, err := unix.Open(*c.PathOnHost, mode|unix.O_CLOEXEC, 0)
	if err == nil {
		if _, err = unix.Seek(fd, 0, unix.SEEK_END); err != nil {
			closeFD(fd)
		}
	}
	if err != nil {
		return drive{}, faultf("Drive config error: %sVirtio backend error: Error manipulating the backing file: %s %s",
			create, rust.IOError(err), *c.PathOnHost)
	}
	if c.CacheType == "" {
		c.CacheType = "Unsafe"
	}
	return drive{blockDeviceConfig: c, fd: fd}, nil
}

func (v *vmm) driveIndex(id string) int {
	return slices.IndexFunc(v.drives, func(d drive) bool { return d.DriveID == id })
}

// putDrive adds a disk, or replaces the one with its id. The root device is the first.
func (v *vmm) putDrive(c blockDeviceConfig) error {
	if v.state != notStarted {
		return v.plugDrive(c)
	}
	v.bootPath = true
	at := v.driveIndex(c.DriveID)
	hasRoot := len(v.drives) > 0 && v.drives[0].IsRootDevice
	switch {
	case c.IsRootDevice && slices.ContainsFunc(v.pmem, func(p pmemConfig) bool { return p.RootDevice }):
		return faultf("Drive config error: Attempt to add block as a root device while the root device defined as a pmem device")
	case c.IsRootDevice && hasRoot && at != 0:
		return faultf("Drive config error: A root block device already exists!")
	}
	d, err := openDrive(c)
	if err != nil {
		return err
	}
	v.metrics.device("block", c.DriveID)
	switch {
	case at >= 0:
		closeFD(v.drives[at].fd)
		v.drives[at] = d
		if at > 0 && c.IsRootDevice {
			v.drives[0], v.drives[at] = v.drives[at], v.drives[0]
		}
	case c.IsRootDevice:
		v.drives = slices.Insert(v.drives, 0, d)
	default:
		v.drives = append(v.drives, d)
	}
	return nil
}

func (v *vmm) plugDrive(c blockDeviceConfig) error {
	if err := v.pluggable(v.driveIndex(c.DriveID) >= 0); err != nil {
		return err
	}
	if c.IsRootDevice {
		return faultf("Drive config error: A root block device already exists!")
	}
	d, err := openDrive(c)
	if err != nil {
		return err
	}
	v.metrics.device("block", c.DriveID)
	v.drives = append(v.drives, d)
	return nil
}

// pluggable says whether a device can come while the machine runs.
func (v *vmm) pluggable(there bool) error {
	v.log.log(levelWarn, mainThread, "[DevPreview] PCI device hotplug is in development preview.")
	switch {
	case !v.pci:
		return faultf("PCI is not enabled")
	case there:
		return faultf("Device ID in use")
	}
	return nil
}

func (v *vmm) patchDrive(c blockDeviceUpdateConfig) error {
	if err := v.postBoot(); err != nil {
		return err
	}
	at := v.driveIndex(c.DriveID)
	const refused = "Drive config error: Unable to patch the block device: %s Please verify the request arguments."
	switch {
	case at < 0:
		return faultf(refused, "Failed perform action on device: Device not found")
	case c.PathOnHost == nil && c.RateLimiter == nil:
		return faultf(refused, "Block: Running method expected different backend.")
	}
	if c.PathOnHost != nil {
		with := v.drives[at].blockDeviceConfig
		with.PathOnHost = c.PathOnHost
		d, err := openDrive(with)
		if err != nil {
			v.metrics.count("block", c.DriveID, map[string]uint64{"update_fails": 1})
			return faultf(refused, "Block: Virtio backend error: Error manipulating the backing file: No such file or directory (os error 2) "+*c.PathOnHost)
		}
		closeFD(v.drives[at].fd)
		v.drives[at] = d
		v.metrics.count("block", c.DriveID, map[string]uint64{"update_count": 1})
	}
	set(&v.drives[at].RateLimiter, &c.RateLimiter)
	return nil
}

func (v *vmm) networkIndex(id string) int {
	return slices.IndexFunc(v.networks, func(n network) bool { return n.IfaceID == id })
}

func (v *vmm) putNetwork(c networkInterfaceConfig) error {
	at := v.networkIndex(c.IfaceID)
	if v.state != notStarted {
		if err := v.pluggable(at >= 0); err != nil {
			return err
		}
	}
	v.bootPath = true
	for i, n := range v.networks {
		if i != at && c.GuestMAC != nil && n.GuestMAC != nil && *c.GuestMAC == *n.GuestMAC {
			return faultf("Network config error: The MAC address is already in use: %s", c.GuestMAC)
		}
	}
	if at >= 0 { // the old one goes first, whatever becomes of the new one
		closeFD(v.networks[at].fd)
		last := len(v.networks) - 1
		v.networks[at] = v.networks[last]
		v.networks = v.networks[:last]
	}
	fd, err := v.openTap(c.HostDevName)
	if err != nil {
		return err
	}
	if c.MTU != nil && *c.MTU < 68 {
		closeFD(fd)
		return faultf("Network config error: Could not create the network device: MTU %d is out of range [68, 65535]", *c.MTU)
	}
	v.metrics.device("net", c.IfaceID)
	v.networks = append(v.networks, network{c, fd})
	return nil
}

func (v *vmm) patchNetwork(c networkInterfaceUpdateConfig) error {
	if err := v.postBoot(); err != nil {
		return err
	}
	at := v.networkIndex(c.IfaceID)
	if at < 0 {
		return faultf("Network config error: Unable to update the net device: Failed perform action on device: Device not found")
	}
	set(&v.networks[at].RxRateLimiter, &c.RxRateLimiter)
	set(&v.networks[at].TxRateLimiter, &c.TxRateLimiter)
	return nil
}

func (v *vmm) setEntropy(c entropyDeviceConfig) error {
	if err := v.preBoot(); err != nil {
		return err
	}
	v.bootPath = true
	v.entropy = &c
	return nil
}
