package cgroup

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// A look at a group that is not empty is followed by another after minPause, then after twice as long each time, up
// to maxPause.
const (
	minPause = time.Millisecond
	maxPause = 50 * time.Millisecond
)

// remove removes directories, and waits for those that the kernel says are busy until ctx ends.
func (r *Root) remove(ctx context.Context, all []hierarchy) error {
	for _, h := range all {
		for pause := minPause; ; pause = min(2*pause, maxPause) {
			err := r.kernel.rmdir(h.dir)
			if err == nil || gone(err) {
				break
			}
			if !errors.Is(err, unix.EBUSY) {
				return err
			}
			if werr := waitEmpty(ctx, h.dir, pause); werr != nil {
				return fmt.Errorf("%w: %w", werr, err)
			}
		}
	}
	return nil
}

// gone says that what was asked for is not there: no name, or one that lost its group while it was used.
func gone(err error) bool {
	return errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENODEV)
}

// waitEmpty returns after pause, or before that if v2 reports that the last process ended. Its error is ctx's.
func waitEmpty(ctx context.Context, dir string, pause time.Duration) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if f, err := os.Open(filepath.Join(dir, "cgroup.events")); err == nil {
		defer f.Close()
		if populated(f) {
			pollChange(f, pause)
			return ctx.Err()
		}
	}
	timer := time.NewTimer(pause)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-timer.C:
		return nil
	}
}

// populated reads cgroup.events; from here on a change of it wakes who polls.
func populated(events *os.File) bool {
	buf := make([]byte, 256)
	n, err := events.Read(buf)
	return err == nil && strings.Contains(string(buf[:n]), "populated 1")
}

// pollChange waits for a change of a file of cgroupfs, for pause at the longest.
func pollChange(f *os.File, pause time.Duration) {
	fds := []unix.PollFd{{Fd: int32(f.Fd()), Events: unix.POLLPRI}}
	// An error, such as of a signal, only makes the wait shorter, and the caller's loop has its bound.
	_, _ = unix.Poll(fds, int(pause/time.Millisecond))
}
