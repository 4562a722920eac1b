package jail

import (
	"context"
	"errors"
	"fmt"
	"net"

	"golang.org/x/sys/unix"
)

// Dial connects to a unix socket in the jail, however long its path. A socket that is not there yet is
// os.ErrNotExist, one that nobody listens on ECONNREFUSED; a link or another file in its place is an error.
func (j *Jail) Dial(ctx context.Context, name string) (*net.UnixConn, error) {
	var conn net.Conn
	err := j.in("connect", name, func(dir int, base string) error {
		fd, err := openAt(dir, base, unix.O_PATH, 0)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		kind, _, err := typeOf(fd)
		if err != nil {
			return err
		}
		if kind != unix.S_IFSOCK {
			return errors.New("this is not a socket; the VMM put something else in its place")
		}
		var d net.Dialer
		conn, err = d.DialContext(ctx, "unix", fmt.Sprintf("/proc/self/fd/%d", fd))
		return cause(err)
	})
	if err != nil {
		return nil, err
	}
	return conn.(*net.UnixConn), nil
}

// cause leaves out the address that a *net.OpError tells: it names a descriptor of metald's.
func cause(err error) error {
	var op *net.OpError
	if errors.As(err, &op) {
		return op.Err
	}
	return err
}
