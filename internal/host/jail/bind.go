package jail

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/unkeyed/unkey/go/deploy/metald/internal/host/disk"
)

// bind mounts a file on an empty one that it makes. Both are held by descriptor, so that no path is looked up. The
// jailer takes the mount along when it makes the jail its root.
func bind(source *disk.Pinned, dir int, base string) error {
	fd, err := openAt(dir, base, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if err := bindOn(source, fd); err != nil {
		return errors.Join(err, unix.Unlinkat(dir, base, 0))
	}
	return nil
}

func bindOn(source *disk.Pinned, target int) error {
	tree, err := unix.OpenTree(source.Fd(), "", unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC|unix.AT_EMPTY_PATH)
	if err != nil {
		return fmt.Errorf("bind mount of %s: %w", source.Path, err)
	}
	defer unix.Close(tree)
	// Nothing that a guest writes is ever run by the host. Linux before 5.12 can't be told in this way.
	err = unix.MountSetattr(tree, "", unix.AT_EMPTY_PATH, &unix.MountAttr{
		Attr_set: unix.MOUNT_ATTR_NOSUID | unix.MOUNT_ATTR_NODEV | unix.MOUNT_ATTR_NOEXEC,
	})
	if err != nil && !errors.Is(err, unix.ENOSYS) {
		return fmt.Errorf("bind mount of %s: %w", source.Path, err)
	}
	err = unix.MoveMount(tree, "", target, "", unix.MOVE_MOUNT_F_EMPTY_PATH|unix.MOVE_MOUNT_T_EMPTY_PATH)
	if err != nil {
		return fmt.Errorf("bind mount of %s: %w", source.Path, err)
	}
	return nil
}

// unmount takes away what is mounted on a name in dir, even where it is in use. The name is not followed.
func unmount(dir int, base string) error {
	return unix.Unmount(fmt.Sprintf("/proc/self/fd/%d/%s", dir, base), unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW)
}
