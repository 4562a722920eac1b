package vmmprocess

import (
	"fmt"
	"net"

	"golang.org/x/sys/unix"
)

// PeerPID returns the process at the other end of a connected unix socket, as it was when that end called
// connect(2), socketpair(2) or, for the end that accepted, listen(2) last. So it is metald itself for a
// listener that metald made and passed to a VMM, unless the VMM called listen(2) on it again, as QEMU does.
func PeerPID(conn *net.UnixConn) (int, error) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return 0, fmt.Errorf("peer of the socket: %w", err)
	}
	var cred *unix.Ucred
	var opt error
	err = raw.Control(func(fd uintptr) { cred, opt = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED) })
	if err == nil {
		err = opt
	}
	if err != nil {
		return 0, fmt.Errorf("peer of the socket: %w", err)
	}
	return int(cred.Pid), nil
}
