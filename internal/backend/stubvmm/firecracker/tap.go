package firecracker

import (
	"golang.org/x/sys/unix"

	"github.com/unkeyed/unkey/go/deploy/metald/internal/backend/stubvmm/rust"
)

// openTap takes a tap device for an interface. With the knob it is the real one; otherwise none is opened, and only one
// that this machine has already is refused.
func (v *vmm) openTap(name string) (int, error) {
	const refused = "Network config error: Could not create the network device: Open tap device failed: "
	if len(name) >= unix.IFNAMSIZ {
		return -1, faultf("%sInvalid interface name", refused)
	}
	fd, err := -1, error(nil)
	for _, n := range v.networks {
		if n.HostDevName == name {
			err = unix.EBUSY
		}
	}
	if v.knobs.Tap && err == nil {
		if fd, err = unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_NONBLOCK|unix.O_CLOEXEC, 0); err != nil {
			return -1, faultf("%sCouldn't open /dev/net/tun: %s", refused, rust.IOError(err))
		}
		err = attach(fd, name)
	}
	if err != nil {
		closeFD(fd)
		return -1, faultf("%sError while creating ifreq structure: %s. Invalid TUN/TAP Backend provided by %s. Check our documentation on setting up the network devices.",
			refused, rust.IOError(err), name)
	}
	return fd, nil
}

func attach(fd int, name string) error {
	req, err := unix.NewIfreq(name)
	if err != nil {
		return err
	}
	req.SetUint16(unix.IFF_TAP | unix.IFF_NO_PI | unix.IFF_VNET_HDR)
	return unix.IoctlIfreq(fd, unix.TUNSETIFF, req)
}
