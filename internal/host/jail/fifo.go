package jail

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// PipeSize is what SetPipeSize asks for, in bytes. It is the most that a user without privileges gets by default
// (/proc/sys/fs/pipe-max-size).
const PipeSize = 1 << 20

// FIFO makes a FIFO, 0600 and the VMM's user's. It was not there: os.ErrExist, whatever it is that is there.
func (j *Jail) FIFO(name string) error {
	return j.in("mkfifo", name, func(dir int, base string) error {
		if err := unix.Mkfifoat(dir, base, 0o600); err != nil {
			return err
		}
		err := j.giveFIFO(dir, base)
		if err != nil {
			err = errors.Join(err, unix.Unlinkat(dir, base, 0))
		}
		return err
	})
}

func (j *Jail) giveFIFO(dir int, base string) error {
	fd, err := openAt(dir, base, unix.O_PATH, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if kind, _, err := typeOf(fd); err != nil || kind != unix.S_IFIFO {
		return errors.Join(err, errNoFIFO)
	}
	return j.owner.give(fd)
}

var errNoFIFO = errors.New("this is not the FIFO that metald made; the VMM put something else in its place")

// OpenFIFO opens a FIFO for reading, and waits for nothing. What is no FIFO, or not the VMM's user's, is an error, and
// was not opened: a device would notice, and a FIFO of another's would give what is not this VMM's.
func (j *Jail) OpenFIFO(name string) (*os.File, error) {
	var file *os.File
	err := j.in("open", name, func(dir int, base string) error {
		held, err := openAt(dir, base, unix.O_PATH, 0)
		if err != nil {
			return err
		}
		defer unix.Close(held)
		kind, st, err := typeOf(held)
		if err != nil {
			return err
		}
		if kind != unix.S_IFIFO || st.Uid != j.owner.UID {
			return errNoFIFO
		}
		fd, err := unix.Open(fmt.Sprintf("/proc/self/fd/%d", held), unix.O_RDONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
		if err != nil {
			return err
		}
		file = os.NewFile(uintptr(fd), filepath.Join(j.path, name))
		return nil
	})
	return file, err
}

// SetPipeSize makes room for PipeSize bytes in a pipe, or for as many as the host's limits allow, and returns how many
// those are. A pipe that has more already keeps them.
func SetPipeSize(pipe *os.File) (int, error) {
	conn, err := pipe.SyscallConn()
	if err != nil {
		return 0, err
	}
	var size int
	cerr := conn.Control(func(fd uintptr) { size, err = setPipeSize(fd) })
	if err = errors.Join(cerr, err); err != nil {
		return 0, fmt.Errorf("size of pipe %s: %w", pipe.Name(), err)
	}
	return size, nil
}

func setPipeSize(fd uintptr) (int, error) {
	has, err := unix.FcntlInt(fd, unix.F_GETPIPE_SZ, 0)
	if err != nil {
		return 0, err
	}
	for size := PipeSize; size > has; size /= 2 {
		got, err := unix.FcntlInt(fd, unix.F_SETPIPE_SZ, size)
		if err == nil {
			return got, nil
		}
		if !errors.Is(err, unix.EPERM) && !errors.Is(err, unix.ENOMEM) {
			return 0, err
		}
	}
	return has, nil
}
