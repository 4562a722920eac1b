package dir

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// ErrMounted says that something is mounted in a directory that was to be removed: removing would go on into
// what is mounted there, which belongs to somebody else. Unmount it first.
var ErrMounted = errors.New("something is mounted in the directory; unmount it first")

// findMount returns an error for a mount at or below path, a bind mount of the same filesystem included. What
// path itself lies on is not asked for. It follows no link.
func findMount(path string) error {
	parent, err := unix.Open(filepath.Dir(path), unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return &fs.PathError{Op: "open", Path: filepath.Dir(path), Err: err}
	}
	defer unix.Close(parent)
	return findMountAt(parent, filepath.Base(path), path)
}

func findMountAt(parent int, name, path string) error {
	fd, err := openHere(parent, name, unix.O_RDONLY|unix.O_DIRECTORY)
	if errors.Is(err, unix.ENOTDIR) || errors.Is(err, unix.ELOOP) {
		// A file or a link. Something may be mounted on a file too.
		if fd, err = openHere(parent, name, unix.O_PATH); err == nil {
			return unix.Close(fd)
		}
	}
	switch {
	case errors.Is(err, unix.EXDEV):
		return fmt.Errorf("remove %s: %w", path, ErrMounted)
	case errors.Is(err, unix.ENOENT):
		return nil
	case err != nil:
		return &fs.PathError{Op: "open", Path: path, Err: err}
	}
	d := os.NewFile(uintptr(fd), path)
	defer d.Close()
	names, err := d.Readdirnames(-1)
	if err != nil {
		return err
	}
	for _, name := range names {
		if err := findMountAt(int(d.Fd()), name, filepath.Join(path, name)); err != nil {
			return err
		}
	}
	return nil
}

// openHere opens name in parent unless another filesystem begins there.
func openHere(parent int, name string, flags uint64) (int, error) {
	return unix.Openat2(parent, name, &unix.OpenHow{
		Flags:   flags | unix.O_NOFOLLOW | unix.O_CLOEXEC,
		Resolve: unix.RESOLVE_NO_XDEV,
	})
}
