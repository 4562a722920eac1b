package jail

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path"
	"time"

	"golang.org/x/sys/unix"
)

// Await returns once there is something of this name in the jail, whatever it is, or with ctx's error where that ends
// first. The directory that the name is in is there: os.ErrNotExist, also where it goes away meanwhile. A socket is
// there a moment before somebody listens on it (ECONNREFUSED).
//
// The kernel tells (inotify(7)); nothing is asked again and again.
func (j *Jail) Await(ctx context.Context, name string) error {
	watch, err := unix.InotifyInit1(unix.IN_NONBLOCK | unix.IN_CLOEXEC)
	if err != nil {
		return fmt.Errorf("wait for %s: inotify: %w", name, err)
	}
	events := os.NewFile(uintptr(watch), "inotify")
	defer events.Close()
	return j.in("wait for", name, func(_ int, base string) error {
		return j.within(path.Dir(name), func(dir int) error { return await(ctx, events, dir, base) })
	})
}

func await(ctx context.Context, events *os.File, dir int, base string) error {
	// Its watch is on the directory itself: where another one takes its name, the wait is over.
	const mask = unix.IN_CREATE | unix.IN_MOVED_TO | unix.IN_DELETE_SELF | unix.IN_MOVE_SELF | unix.IN_ONLYDIR
	if _, err := unix.InotifyAddWatch(int(events.Fd()), fmt.Sprintf("/proc/self/fd/%d", dir), mask); err != nil {
		return err
	}
	defer context.AfterFunc(ctx, func() { _ = events.SetReadDeadline(time.Unix(1, 0)) })()
	buf := make([]byte, 4096)
	for {
		var st unix.Stat_t
		err := unix.Fstatat(dir, base, &st, unix.AT_SYMLINK_NOFOLLOW)
		if !errors.Is(err, unix.ENOENT) {
			return err
		}
		if err := unix.Fstat(dir, &st); err != nil || st.Nlink == 0 {
			return errors.Join(err, unix.ENOENT)
		}
		if _, err := events.Read(buf); err != nil {
			return errors.Join(ctx.Err(), err)
		}
	}
}
