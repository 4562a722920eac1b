// Package tap uses tap devices that exist on the host: it makes and removes none.
package tap

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

const netClass = "/sys/class/net"

// ErrName says that a name cannot be that of a network device, whatever there is on the host.
var ErrName = errors.New("this cannot be the name of a network device")

// ErrAbsent says that there is no tap device of a name.
var ErrAbsent = errors.New("there is no such tap device on this host")

// Open attaches to an existing, persistent tap device. A name that doesn't exist must not reach the kernel: as root it
// would make a device of that name.
func Open(name string) (*os.File, error) {
	flags, err := check(name)
	if err != nil {
		return nil, err
	}
	file, err := attachTap(name, uint16(unix.IFF_TAP|unix.IFF_NO_PI|unix.IFF_VNET_HDR|flags&unix.IFF_MULTI_QUEUE))
	if err != nil {
		return nil, fmt.Errorf("the tap device %s cannot be used: %w", name, err)
	}
	return file, nil
}

// Give lets the user uid attach to an existing tap device that nobody is attached to, and no other user but root. A VMM
// that opens its tap by itself, without privileges, needs that.
func Give(name string, uid uint32) error {
	file, err := Open(name)
	if err != nil {
		return err
	}
	defer file.Close()
	if err := unix.IoctlSetInt(int(file.Fd()), unix.TUNSETOWNER, int(uid)); err != nil {
		return fmt.Errorf("give the tap device %s to uid %d: %w", name, uid, err)
	}
	return nil
}

// Owner returns the user who may attach to a tap device beside root. Of one that is nobody's, to which any user may
// attach, that is root.
func Owner(name string) (uint32, error) {
	if _, err := check(name); err != nil {
		return 0, err
	}
	b, err := os.ReadFile(filepath.Join(netClass, name, "owner"))
	if err != nil {
		return 0, err
	}
	n, err := strconv.ParseInt(strings.TrimSpace(string(b)), 10, 64)
	return uint32(max(n, 0)), err
}

// check returns the flags of the tap device called name.
func check(name string) (int, error) {
	if name == "" || len(name) >= unix.IFNAMSIZ || strings.ContainsAny(name, "/ \t\n:%") || name == "." || name == ".." {
		return 0, fmt.Errorf("%q: %w", name, ErrName)
	}
	flags, err := tunFlags(name)
	if err != nil {
		return 0, fmt.Errorf("%w: make %s first: ip tuntap add %s mode tap", ErrAbsent, name, name)
	}
	if flags&unix.IFF_TAP == 0 {
		return 0, fmt.Errorf("%s is a tun device, not a tap", name)
	}
	return flags, nil
}

// tunFlags reads what kind of tun device name is; an error if it is none.
func tunFlags(name string) (int, error) {
	b, err := os.ReadFile(filepath.Join(netClass, name, "tun_flags"))
	if err != nil {
		return 0, err
	}
	n, err := strconv.ParseUint(strings.TrimSpace(string(b)), 0, 16)
	return int(n), err
}

func attachTap(name string, flags uint16) (*os.File, error) {
	fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, fmt.Errorf("open /dev/net/tun: %w", err)
	}
	file := os.NewFile(uintptr(fd), "tap "+name)
	if err := attach(fd, name, flags); err != nil {
		file.Close()
		return nil, err
	}
	return file, nil
}

func attach(fd int, name string, flags uint16) error {
	ifr, err := unix.NewIfreq(name)
	if err != nil {
		return err
	}
	ifr.SetUint16(flags)
	if err := unix.IoctlIfreq(fd, unix.TUNSETIFF, ifr); err != nil {
		if errors.Is(err, unix.EBUSY) {
			return errors.New("it is in use")
		}
		return err
	}
	// Had it been removed a moment ago, this would be a new device: one that goes with its file.
	if err := unix.IoctlIfreq(fd, unix.TUNGETIFF, ifr); err != nil {
		return err
	}
	if ifr.Uint16()&unix.IFF_PERSIST == 0 {
		return errors.New("it is not persistent")
	}
	return nil
}

// Counters are what went through a tap since it was made, as the guest sees it: what the host received, the guest sent.
type Counters struct {
	ReceivedBytes, SentBytes, ReceivedPackets, SentPackets int64
}

// Read reads the counters of a tap.
func Read(name string) (Counters, error) {
	var c Counters
	for _, f := range []struct {
		file string
		to   *int64
	}{{"tx_bytes", &c.ReceivedBytes}, {"rx_bytes", &c.SentBytes}, {"tx_packets", &c.ReceivedPackets}, {"rx_packets", &c.SentPackets}} {
		b, err := os.ReadFile(filepath.Join(netClass, name, "statistics", f.file))
		if err != nil {
			return c, err
		}
		if *f.to, err = strconv.ParseInt(strings.TrimSpace(string(b)), 10, 64); err != nil {
			return c, err
		}
	}
	return c, nil
}

// Since is what went through since from was read. ok is false where the counters fell: the tap was made anew.
func (c Counters) Since(from Counters) (since Counters, ok bool) {
	since = Counters{
		ReceivedBytes: c.ReceivedBytes - from.ReceivedBytes, SentBytes: c.SentBytes - from.SentBytes,
		ReceivedPackets: c.ReceivedPackets - from.ReceivedPackets, SentPackets: c.SentPackets - from.SentPackets,
	}
	return since, since.ReceivedBytes >= 0 && since.SentBytes >= 0 && since.ReceivedPackets >= 0 && since.SentPackets >= 0
}
