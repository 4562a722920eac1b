package jail

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/unkeyed/unkey/go/deploy/metald/internal/host/dir"
)

// lockName is the file in a base that says whose it is. A dot-name is none of an executable.
const lockName = ".metald.lock"

// Found is a jail that is on the host.
type Found struct {
	Exec string // the executable's name
	ID   string
	Dir  string // <base>/<Exec>/<ID>, for Remove
}

// List returns what jails are below base; none where there is no base. A jail is a directory two levels down with
// nothing in it but a directory root, or nothing at all, and that belongs to metald: where a base was given that other
// things are in, they are not taken for jails.
func List(base string) ([]Found, error) {
	var found []Found
	execs, err := directories(base)
	for _, exec := range execs {
		ids, lerr := directories(filepath.Join(base, exec))
		err = errors.Join(err, lerr)
		for _, id := range ids {
			f := Found{exec, id, filepath.Join(base, exec, id)}
			is, lerr := isJail(f.Dir)
			err = errors.Join(err, lerr)
			if is {
				found = append(found, f)
			}
		}
	}
	if err != nil {
		return found, fmt.Errorf("list jails: %w", err)
	}
	return found, nil
}

// directories are the names of directories that begin with no dot. A path that is gone has none.
func directories(path string) ([]string, error) {
	entries, err := os.ReadDir(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	var names []string
	for _, e := range entries {
		if e.IsDir() && !strings.HasPrefix(e.Name(), ".") {
			names = append(names, e.Name())
		}
	}
	return names, err
}

func isJail(path string) (bool, error) {
	fd, err := openTop(path)
	if errors.Is(err, os.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	defer unix.Close(fd)
	if checkOurs(fd, path) != nil {
		return false, nil
	}
	entries, err := os.ReadDir(path)
	if errors.Is(err, os.ErrNotExist) {
		return false, nil
	}
	empty := len(entries) == 0
	return empty || len(entries) == 1 && entries[0].Name() == "root" && entries[0].IsDir(), err
}

// SweepTrash removes what is left below base of jails whose removal was cut short.
func SweepTrash(ctx context.Context, base string) error {
	execs, err := directories(base)
	for _, exec := range execs {
		err = errors.Join(err, dir.SweepTrashContext(ctx, filepath.Join(base, exec)))
	}
	if err != nil {
		return fmt.Errorf("sweep jails: %w", err)
	}
	return nil
}

// Lock makes base this process's alone, until Close or the end of the process: another metald would sweep its jails.
// It makes the directory where it is missing.
func Lock(base string) (*os.File, error) {
	if err := os.MkdirAll(base, 0o755); err != nil {
		return nil, fmt.Errorf("lock jails: %w", err)
	}
	fd, err := openTop(base)
	if err != nil {
		return nil, fmt.Errorf("lock jails: %w", err)
	}
	defer unix.Close(fd)
	if err := checkOurs(fd, base); err != nil {
		return nil, fmt.Errorf("lock jails: %w", err)
	}
	lock, err := openAt(fd, lockName, unix.O_RDWR|unix.O_CREAT, 0o600)
	if err != nil {
		return nil, fmt.Errorf("lock jails: %w", &os.PathError{Op: "open", Path: filepath.Join(base, lockName), Err: err})
	}
	file := os.NewFile(uintptr(lock), filepath.Join(base, lockName))
	if err := flock(file, base); err != nil {
		return nil, errors.Join(err, file.Close())
	}
	return file, nil
}

func flock(file *os.File, base string) error {
	err := unix.Flock(int(file.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	if errors.Is(err, unix.EWOULDBLOCK) {
		return fmt.Errorf("jails below %s are those of another metald%s; end it, or give this one a directory of its own", base, holder(file))
	}
	if err == nil {
		err = file.Truncate(0)
	}
	if err == nil {
		_, err = file.WriteAt([]byte(strconv.Itoa(os.Getpid())+"\n"), 0)
	}
	if err != nil {
		return fmt.Errorf("lock jails below %s: %w", base, err)
	}
	return nil
}

// holder says which process has the lock, if it wrote it down.
func holder(file *os.File) string {
	buf := make([]byte, 16)
	n, _ := file.ReadAt(buf, 0)
	if pid, err := strconv.Atoi(strings.TrimSpace(string(buf[:n]))); err == nil {
		return fmt.Sprintf(" (process %d)", pid)
	}
	return ""
}
