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

// lookEvery is how often Await looks where the kernel can't tell.
const lookEvery = 10 * time.Millisecond

// Await returns once there is something of this name in the jail, whatever it is, or with ctx's error where that ends
// first. The directory that the name is in is there: os.ErrNotExist, also where it is renamed or removed meanwhile
// (who removes the jail as a whole ends ctx). A socket is there a moment before somebody listens on it (ECONNREFUSED).
//
// The kernel tells when to look (inotify(7)). It tells a user in 128 places at once (fs.inotify.max_user_instances);
// who waits beyond that looks again and again.
func (j *Jail) Await(ctx context.Context, name string) error {
	watch, err := unix.InotifyInit1(unix.IN_NONBLOCK | unix.IN_CLOEXEC)
	if err != nil && !errors.Is(err, unix.EMFILE) {
		return fmt.Errorf("wait for %s: inotify: %w", name, err)
	}
	if err != nil {
		return j.in("wait for", name, func(dir int, _ string) error {
			return j.await(ctx, name, dir, func() error { return pause(ctx) })
		})
	}
	events := os.NewFile(uintptr(watch), "inotify")
	// The kernel closes a watch when nobody looks at it any more (synchronize_srcu), which takes it some 10 ms.
	defer j.closing.Go(func() { events.Close() })
	return j.in("wait for", name, func(dir int, _ string) error {
		if err := j.watch(watch, name, dir); err != nil {
			return err
		}
		defer context.AfterFunc(ctx, func() { _ = events.SetReadDeadline(time.Unix(1, 0)) })()
		buf := make([]byte, 4096)
		return j.await(ctx, name, dir, func() error {
			_, err := events.Read(buf)
			return err
		})
	})
}

// watch has the kernel tell what may concern name, which is in dir: that something appears there, and that dir or one
// above it goes. A directory that is held says nothing of its own removal; the one that it was in does.
func (j *Jail) watch(inotify int, name string, dir int) error {
	add := func(dir int, mask uint32) error {
		_, err := unix.InotifyAddWatch(inotify, fmt.Sprintf("/proc/self/fd/%d", dir), mask|unix.IN_ONLYDIR)
		return err
	}
	if err := add(dir, unix.IN_CREATE|unix.IN_MOVED_TO); err != nil {
		return err
	}
	for at := path.Dir(name); at != "."; at = path.Dir(at) {
		err := j.within(path.Dir(at), func(above int) error { return add(above, unix.IN_DELETE|unix.IN_MOVED_FROM) })
		if err != nil {
			return err
		}
	}
	return nil
}

// await looks for name in dir each time that next returns.
func (j *Jail) await(ctx context.Context, name string, dir int, next func() error) error {
	for {
		var st unix.Stat_t
		err := unix.Fstatat(dir, path.Base(name), &st, unix.AT_SYMLINK_NOFOLLOW)
		if !errors.Is(err, unix.ENOENT) {
			return err
		}
		if err := j.still(path.Dir(name), dir); err != nil {
			return err
		}
		if err := next(); ctx.Err() != nil {
			return ctx.Err()
		} else if err != nil {
			return err
		}
	}
}

// still says that fd is the jail's directory of this name, and ENOENT where it was renamed or removed.
func (j *Jail) still(name string, fd int) error {
	return j.within(name, func(now int) error {
		_, a, err := typeOf(fd)
		if err != nil {
			return err
		}
		_, b, err := typeOf(now)
		if err == nil && (a.Dev != b.Dev || a.Ino != b.Ino) {
			err = unix.ENOENT
		}
		return err
	})
}

func pause(ctx context.Context) error {
	timer := time.NewTimer(lookEvery)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-timer.C:
		return nil
	}
}
