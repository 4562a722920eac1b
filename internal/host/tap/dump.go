package tap

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// Dumper reads the counters of all network devices of a network namespace at once: one question to the kernel for a
// thousand taps, where their files in /sys would be four each. It is for one goroutine, and allocates nothing per dump.
type Dumper struct {
	fd  int
	seq uint32
	ask [statsRequestSize]byte
	buf []byte
}

// The parts of RTM_GETSTATS (linux/rtnetlink.h, linux/if_link.h) that package unix has no names for.
const (
	rtmNewStats      = 92
	rtmGetStats      = 94
	ifStatsMsgSize   = 12 // struct if_stats_msg: family, padding, ifindex, filter_mask
	iflaStatsLink64  = 1  // IFLA_STATS_LINK_64
	statsRequestSize = unix.SizeofNlMsghdr + ifStatsMsgSize
	stats64Head      = 32 // of struct rtnl_link_stats64: rx_packets, tx_packets, rx_bytes, tx_bytes
)

// NewDumper opens a netlink socket in the network namespace of the calling thread.
func NewDumper() (*Dumper, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_ROUTE)
	if err != nil {
		return nil, os.NewSyscallError("socket", err)
	}
	d := &Dumper{fd: fd, buf: make([]byte, 64<<10)} // the kernel fills at most 32 KiB of it at a time
	if err := d.open(); err != nil {
		unix.Close(fd)
		return nil, err
	}
	return d, nil
}

func (d *Dumper) open() error {
	if err := unix.Bind(d.fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return os.NewSyscallError("bind", err)
	}
	// The kernel answers from memory; a second is an answer that does not come.
	limit := unix.Timeval{Sec: 1}
	return os.NewSyscallError("setsockopt", unix.SetsockoptTimeval(d.fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &limit))
}

// Close closes the socket.
func (d *Dumper) Close() {
	unix.Close(d.fd)
	d.fd = -1
}

// Index is the number by which a network device stands in a dump. A device that is made anew has another.
func (d *Dumper) Index(name string) (int, error) {
	ifr, err := unix.NewIfreq(name)
	if err != nil {
		return 0, fmt.Errorf("%q: %w", name, ErrName)
	}
	switch err := unix.IoctlIfreq(d.fd, unix.SIOCGIFINDEX, ifr); err {
	case nil:
		return int(int32(ifr.Uint32())), nil
	case unix.ENODEV:
		return 0, fmt.Errorf("%s: %w", name, ErrAbsent)
	default:
		return 0, fmt.Errorf("index of %s: %w", name, err)
	}
}

// ErrInterrupted says that devices came or went during a dump, which may have left some out. The next one will tell.
var ErrInterrupted = errors.New("the network devices changed during the dump of their counters")

// Dump calls each with the index and the counters of every device there is, not only taps, as the guest at a tap's other
// side sees them. After an error it may have been called for some.
func (d *Dumper) Dump(each func(index int, c Counters)) error {
	d.seq++
	d.question()
	if _, err := unix.Write(d.fd, d.ask[:]); err != nil { // which goes to the kernel
		return os.NewSyscallError("write", err)
	}
	interrupted := false
	for {
		n, err := d.receive()
		if err != nil {
			return err
		}
		done, err := d.messages(d.buf[:n], &interrupted, each)
		switch {
		case err != nil:
			return err
		case done && interrupted:
			return ErrInterrupted
		case done:
			return nil
		}
	}
}

func (d *Dumper) question() {
	b := d.ask[:]
	native := binary.NativeEndian
	native.PutUint32(b, statsRequestSize)
	native.PutUint16(b[4:], rtmGetStats)
	native.PutUint16(b[6:], unix.NLM_F_REQUEST|unix.NLM_F_DUMP)
	native.PutUint32(b[8:], d.seq)
	native.PutUint32(b[unix.SizeofNlMsghdr+8:], 1<<(iflaStatsLink64-1))
}

func (d *Dumper) receive() (int, error) {
	for {
		n, err := unix.Read(d.fd, d.buf)
		switch {
		case err == unix.EINTR:
			continue
		case err == unix.EAGAIN:
			return 0, errors.New("the kernel did not answer a question for the counters of network devices")
		case err != nil:
			return 0, os.NewSyscallError("read", err)
		}
		return n, nil
	}
}

// messages takes one datagram apart. done says that it held the end of the dump.
func (d *Dumper) messages(b []byte, interrupted *bool, each func(int, Counters)) (done bool, err error) {
	native := binary.NativeEndian
	for len(b) >= unix.SizeofNlMsghdr {
		size := int(native.Uint32(b))
		kind, flags, seq := native.Uint16(b[4:]), native.Uint16(b[6:]), native.Uint32(b[8:])
		if size < unix.SizeofNlMsghdr || size > len(b) {
			return false, fmt.Errorf("a netlink message of %d bytes in a datagram of %d", size, len(b))
		}
		body := b[unix.SizeofNlMsghdr:size]
		b = b[min(align4(size), len(b)):]
		if seq != d.seq {
			continue // what an earlier dump, which was given up, left
		}
		*interrupted = *interrupted || flags&unix.NLM_F_DUMP_INTR != 0
		switch kind {
		case unix.NLMSG_DONE:
			return true, nil
		case unix.NLMSG_ERROR:
			if len(body) < 4 {
				return false, errors.New("a netlink error without a number")
			}
			return false, os.NewSyscallError("RTM_GETSTATS", unix.Errno(-int32(native.Uint32(body))))
		case rtmNewStats:
			if index, c, ok := device(body); ok {
				each(index, c)
			}
		}
	}
	return false, nil
}

// device reads struct if_stats_msg and, of the attributes behind it, the counters.
func device(b []byte) (index int, c Counters, ok bool) {
	if len(b) < ifStatsMsgSize {
		return 0, c, false
	}
	native := binary.NativeEndian
	index, b = int(int32(native.Uint32(b[4:]))), b[ifStatsMsgSize:]
	for len(b) >= unix.SizeofRtAttr {
		size := int(native.Uint16(b))
		if size < unix.SizeofRtAttr || size > len(b) {
			return 0, c, false
		}
		value := b[unix.SizeofRtAttr:size]
		if native.Uint16(b[2:]) == iflaStatsLink64 && len(value) >= stats64Head {
			// What the host received, the guest sent.
			c.SentPackets, c.ReceivedPackets = int64(native.Uint64(value)), int64(native.Uint64(value[8:]))
			c.SentBytes, c.ReceivedBytes = int64(native.Uint64(value[16:])), int64(native.Uint64(value[24:]))
			return index, c, true
		}
		b = b[min(align4(size), len(b)):]
	}
	return 0, c, false
}

func align4(n int) int { return (n + 3) &^ 3 }
