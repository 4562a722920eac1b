package qemu

import (
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// The sockets in a run directory.
const (
	controlSocket = "qmp.sock"
	statsSocket   = "stats.sock"
	consoleSocket = "console.sock"
)

// socketPath is where a unix socket lives. A path longer than the 108 bytes of a socket address is no hindrance: the
// kernel is given its directory as an open file.
type socketPath string

func socketIn(runDir, name string) socketPath { return socketPath(filepath.Join(runDir, name)) }

// short calls use with a short path of the socket, valid during the call.
func (p socketPath) short(use func(string) error) error {
	dir, err := os.OpenFile(filepath.Dir(string(p)), unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer dir.Close()
	return use(fmt.Sprintf("/proc/self/fd/%d/%s", dir.Fd(), filepath.Base(string(p))))
}

// listen makes the socket and returns it as a file for QEMU to inherit.
func (p socketPath) listen() (*os.File, error) {
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, os.NewSyscallError("socket", err)
	}
	err = p.short(func(path string) error {
		if err := unix.Bind(fd, &unix.SockaddrUnix{Name: path}); err != nil {
			return os.NewSyscallError("bind", err)
		}
		return os.NewSyscallError("listen", unix.Listen(fd, 1))
	})
	if err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("socket %s: %w", p, err)
	}
	return os.NewFile(uintptr(fd), string(p)), nil
}

// connect returns at once: the kernel queues a connection that nobody accepted yet.
func (p socketPath) connect(ctx context.Context) (*net.UnixConn, error) {
	var conn net.Conn
	err := p.short(func(path string) (err error) {
		conn, err = new(net.Dialer).DialContext(ctx, "unix", path)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("connect to %s: %w", p, err)
	}
	return conn.(*net.UnixConn), nil
}

// peerPID returns the process that made the listening socket behind conn listen. QEMU calls listen(2) itself on a
// socket that it inherited, so a connection made after its start shows its own pid.
func peerPID(conn *net.UnixConn) (int, error) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return 0, err
	}
	var cred *unix.Ucred
	var optErr error
	if err := raw.Control(func(fd uintptr) {
		cred, optErr = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
	}); err != nil {
		return 0, err
	}
	if optErr != nil {
		return 0, os.NewSyscallError("getsockopt", optErr)
	}
	return int(cred.Pid), nil
}
