package daemon

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// stateDir is a directory that this process alone may use, until Close.
type stateDir struct{ lock *os.File }

func openStateDir(path string) (*stateDir, error) { return openDir("UNKEY_METALD_STATE_DIR", path) }

// openDir makes the directory where it is missing and locks it. A lock ends with the process that holds it,
// however that ends.
func openDir(setting, path string) (*stateDir, error) {
	if err := os.MkdirAll(path, 0o711); err != nil {
		return nil, fmt.Errorf("%s: %w", setting, err)
	}
	if err := checkOwner(setting, path); err != nil {
		return nil, err
	}
	lock, err := os.OpenFile(filepath.Join(path, "lock"), os.O_RDWR|os.O_CREATE|syscall.O_NOFOLLOW, 0o600)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", setting, err)
	}
	if err := flock(lock); err != nil {
		defer lock.Close()
		if errors.Is(err, unix.EWOULDBLOCK) {
			return nil, inUseError{fmt.Sprintf("%s: %s is in use by another metald%s; end it, or give this one a directory of its own", setting, path, holder(lock))}
		}
		return nil, fmt.Errorf("lock %s: %w", path, err)
	}
	if err := errors.Join(lock.Truncate(0), writePID(lock)); err != nil {
		return nil, errors.Join(err, lock.Close())
	}
	return &stateDir{lock}, nil
}

// inUseError says that another metald has the directory.
type inUseError struct{ text string }

// Error says which.
func (e inUseError) Error() string { return e.text }

func (d *stateDir) Close() error { return d.lock.Close() }

// orphaned is how long a process may have a lock that a metald which was killed was about to start: until it executes
// something, it has everything open that metald had.
const orphaned = 2 * time.Second

// flock locks a file. It waits only for a lock whose metald is gone.
func flock(lock *os.File) error {
	for deadline := time.Now().Add(orphaned); ; time.Sleep(5 * time.Millisecond) {
		err := unix.Flock(int(lock.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if !errors.Is(err, unix.EWOULDBLOCK) || holderLives(lock) || time.Now().After(deadline) {
			return err
		}
	}
}

// holderLives says whether the process that the lock names is there, and that is in doubt.
func holderLives(lock *os.File) bool {
	var pid int
	text := make([]byte, 32)
	n, _ := lock.ReadAt(text, 0)
	if _, err := fmt.Sscan(string(text[:n]), &pid); err != nil {
		return true
	}
	return !errors.Is(unix.Kill(pid, 0), unix.ESRCH)
}

// checkOwner refuses a directory in which another user could change what metald believes.
func checkOwner(setting, path string) error {
	info, err := os.Stat(path)
	if err != nil {
		return fmt.Errorf("%s: %w", setting, err)
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	if !info.IsDir() || !ok {
		return fmt.Errorf("%s: %s is not a directory", setting, path)
	}
	if int(st.Uid) != os.Geteuid() {
		return fmt.Errorf("%s: %s belongs to uid %d and metald runs as uid %d", setting, path, st.Uid, os.Geteuid())
	}
	if info.Mode().Perm()&0o022 != 0 {
		return fmt.Errorf("%s: other users can write to %s (mode %04o); chmod go-w it", setting, path, info.Mode().Perm())
	}
	return nil
}

func writePID(lock *os.File) error {
	_, err := fmt.Fprintln(lock, os.Getpid())
	return err
}

// holder reads, for people, which process has the lock.
func holder(lock *os.File) string {
	text, err := io.ReadAll(io.LimitReader(lock, 32))
	if pid := strings.TrimSpace(string(text)); err == nil && pid != "" {
		return " (pid " + pid + ")"
	}
	return ""
}
