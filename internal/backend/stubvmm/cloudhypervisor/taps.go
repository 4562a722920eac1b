package cloudhypervisor

import (
	"net"

	"golang.org/x/sys/unix"
)

// tapFlags is a tap device whose packets have virtio's header and no other.
const tapFlags = unix.IFF_TAP | unix.IFF_NO_PI | unix.IFF_VNET_HDR

// openTap opens the tap of an interface, and makes one that is not there if the process may.
func openTap(n *netConfig) ([]int, *fault) {
	name, flags := "vmtap%d", uint16(tapFlags)
	if n.Tap != nil {
		name = *n.Tap
	}
	if *n.NumQueues > 2 {
		flags |= unix.IFF_MULTI_QUEUE
	}
	var fds []int
	for range *n.NumQueues / 2 {
		fd, given, err := attach(name, flags)
		if err != nil {
			closeAll(fds)
			return nil, err.under("Cannot create virtio-net device", "Failed to open taps")
		}
		name = given
		fds = append(fds, fd)
	}
	n.Tap = &name
	if i, err := net.InterfaceByName(name); err == nil {
		missing(&n.HostMAC, macAddress(i.HardwareAddr.String()))
	}
	return fds, nil
}

func attach(name string, flags uint16) (int, string, *fault) {
	const opening = "Open tap device failed"
	req, err := unix.NewIfreq(name)
	if err != nil {
		return -1, "", says(opening, "Interface name too long (max length is 15): "+name)
	}
	fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, "", causedBy(err, opening, "Couldn't open /dev/net/tun")
	}
	req.SetUint16(flags)
	if err := unix.IoctlIfreq(fd, unix.TUNSETIFF, req); err != nil {
		unix.Close(fd)
		return -1, "", causedBy(err, opening, "Unable to configure tap interface")
	}
	return fd, req.Name(), nil
}

// isTap says whether an open file is a tap device with virtio's header.
func isTap(fd int) *fault {
	req, _ := unix.NewIfreq("")
	if err := unix.IoctlIfreq(fd, unix.TUNGETIFF, req); err != nil {
		return causedBy(err, "Cannot create virtio-net device", "Open tap device failed", "Failed to get TAP flags")
	}
	if req.Uint16()&unix.IFF_VNET_HDR == 0 {
		return says("Cannot create virtio-net device", "Open tap device failed", "the stand-in: no IFF_VNET_HDR on this tap device")
	}
	return nil
}
