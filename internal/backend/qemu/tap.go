package qemu

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/unkeyed/unkey/go/deploy/metald/internal/backend/types"
)

const netClass = "/sys/class/net"

// openTap attaches to an existing, persistent tap device. A name that doesn't exist must not reach the kernel: as root
// it would make a device of that name.
func openTap(field, name string) (*os.File, error) {
	switch {
	case name == "":
		return nil, types.FieldErrorf(types.KindInvalid, field, "QEMU needs a tap device")
	case len(name) >= unix.IFNAMSIZ || strings.ContainsAny(name, "/ \t\n:%") || name == "." || name == "..":
		return nil, types.FieldErrorf(types.KindInvalid, field, "%q cannot be the name of a network device", name)
	}
	flags, err := tunFlags(name)
	if err != nil {
		return nil, types.FieldErrorf(types.KindPrecondition, field, "there is no tap device %s on this host; make it first: ip tuntap add %s mode tap", name, name)
	}
	if flags&unix.IFF_TAP == 0 {
		return nil, types.FieldErrorf(types.KindPrecondition, field, "%s is a tun device, not a tap", name)
	}
	file, err := attachTap(name, uint16(unix.IFF_TAP|unix.IFF_NO_PI|unix.IFF_VNET_HDR|flags&unix.IFF_MULTI_QUEUE))
	if err != nil {
		return nil, types.FieldErrorf(types.KindPrecondition, field, "the tap device %s cannot be used: %w", name, err)
	}
	return file, nil
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

// tapCounters reads what went through a tap since it was made, as the guest sees it: what the host received, the guest
// sent.
func tapCounters(name string) (types.NetworkUsage, error) {
	var u types.NetworkUsage
	for _, c := range []struct {
		file string
		to   *int64
	}{{"tx_bytes", &u.ReceivedBytes}, {"rx_bytes", &u.SentBytes}, {"tx_packets", &u.ReceivedPackets}, {"rx_packets", &u.SentPackets}} {
		b, err := os.ReadFile(filepath.Join(netClass, name, "statistics", c.file))
		if err != nil {
			return u, err
		}
		if *c.to, err = strconv.ParseInt(strings.TrimSpace(string(b)), 10, 64); err != nil {
			return u, err
		}
	}
	return u, nil
}
