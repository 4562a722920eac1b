package vmmprocess

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// maxSocketPath is the longest path that fits struct sockaddr_un with its final NUL, see unix(7).
const maxSocketPath = 107

// socketBacklog is how many clients may wait for the VMM to accept them; there are one or two.
const socketBacklog = 16

// Listen binds a listening unix socket dir/name, mode 0600, to pass to a VMM by Command.Files: a client can
// connect from that moment on. The path may be longer than the 107 bytes a socket address holds. Closing the
// file leaves the socket's name; removing the directory takes it away. A name that exists is an error: unix.EADDRINUSE.
//
// For a client the peer is the process that called listen(2) last: metald, until the VMM calls it again.
func Listen(dir, name string) (*os.File, error) {
	fd, err := listen(dir, name)
	if err != nil {
		return nil, fmt.Errorf("listen on %s: %w", filepath.Join(dir, name), err)
	}
	return os.NewFile(uintptr(fd), filepath.Join(dir, name)), nil
}

func listen(dir, name string) (int, error) {
	addr, done, err := socketAddress(dir, name)
	if err != nil {
		return -1, err
	}
	defer done()
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return -1, err
	}
	// bind(2) takes the mode of the name from the socket, so it never exists with another one.
	err = unix.Fchmod(fd, 0o600)
	if err == nil {
		err = unix.Bind(fd, &unix.SockaddrUnix{Name: addr})
	}
	if err == nil {
		err = unix.Listen(fd, socketBacklog)
	}
	if err != nil {
		unix.Close(fd)
		return -1, err
	}
	return fd, nil
}

// Dial connects to the unix socket dir/name, whose path may be longer than a socket address holds.
func Dial(ctx context.Context, dir, name string) (*net.UnixConn, error) {
	addr, done, err := socketAddress(dir, name)
	if err != nil {
		return nil, fmt.Errorf("connect to %s: %w", filepath.Join(dir, name), err)
	}
	defer done()
	var d net.Dialer
	conn, err := d.DialContext(ctx, "unix", addr)
	if err != nil {
		return nil, fmt.Errorf("connect to %s: %w", filepath.Join(dir, name), cause(err))
	}
	return conn.(*net.UnixConn), nil
}

// cause leaves out the address that a *net.OpError tells: it may name a descriptor of metald.
func cause(err error) error {
	var op *net.OpError
	if errors.As(err, &op) {
		return op.Err
	}
	return err
}

// socketAddress returns a path for dir/name that fits a socket address: the path itself if it is short, so that
// a VMM can find and remove its socket by it, otherwise one by way of a descriptor that done closes.
func socketAddress(dir, name string) (addr string, done func(), err error) {
	if name == "" || name == "." || name == ".." || strings.ContainsAny(name, "/\x00") {
		return "", nil, fmt.Errorf("%q is not a file name", name)
	}
	addr = filepath.Join(dir, name)
	if len(addr) <= maxSocketPath {
		return addr, func() {}, nil
	}
	fd, err := unix.Open(dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return "", nil, &os.PathError{Op: "open", Path: dir, Err: err}
	}
	addr = fmt.Sprintf("/proc/self/fd/%d/%s", fd, name)
	return addr, func() { unix.Close(fd) }, nil
}
