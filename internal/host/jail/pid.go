package jail

import (
	"errors"
	"fmt"
	"os"
	"strconv"

	"golang.org/x/sys/unix"
)

// maxPID is the largest pid of Linux (PID_MAX_LIMIT).
const maxPID = 1 << 22

// ReadPID reads the file that the jailer, as root, writes the VMM's pid into. A file that the VMM put in its place is
// an error, since it can make none that is root's. It is whole once the jailer has ended or become the VMM, and what it
// says is the pid of a process that was: only one that is a child of metald's, or whose executable was looked at, is
// the VMM.
func (j *Jail) ReadPID(name string) (int, error) {
	var pid int
	err := j.in("read", name, func(dir int, base string) error {
		held, err := openAt(dir, base, unix.O_PATH, 0)
		if err != nil {
			return err
		}
		defer unix.Close(held)
		kind, st, err := typeOf(held)
		if err != nil {
			return err
		}
		if kind != unix.S_IFREG || int(st.Uid) != os.Geteuid() || st.Mode&0o022 != 0 || st.Nlink != 1 {
			return errors.New("this is not the file that the jailer wrote; the VMM put something else in its place")
		}
		pid, err = readPID(held)
		return err
	})
	return pid, err
}

func readPID(held int) (int, error) {
	fd, err := unix.Open(fmt.Sprintf("/proc/self/fd/%d", held), unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return 0, err
	}
	defer unix.Close(fd)
	buf := make([]byte, 8) // longer than any pid
	n, err := unix.Read(fd, buf)
	if err != nil {
		return 0, err
	}
	pid, err := strconv.Atoi(string(buf[:n]))
	if err != nil || pid <= 0 || pid > maxPID {
		return 0, fmt.Errorf("it has %q in it, which is not a pid", buf[:n])
	}
	return pid, nil
}
