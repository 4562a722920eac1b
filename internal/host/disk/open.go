package disk

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// ErrChanged says that a file is no longer the one that Resolve found, or was written to while it was copied.
var ErrChanged = errors.New("the file was changed or replaced while it was being used; try again")

// ErrUnreadable says that the user that metald runs as may not read a file.
var ErrUnreadable = errors.New("metald may not read the file")

// Open opens the file for reading. What was put in its place since Resolve, a link or another file, is not
// opened, and the error wraps ErrChanged; where metald may not read it, ErrUnreadable.
func (f File) Open() (*os.File, error) {
	fd, err := openPath(unix.AT_FDCWD, f.Path, 0)
	if err != nil {
		return nil, changed(err)
	}
	defer unix.Close(fd)
	now, err := examine(fd, f.Path)
	if err != nil {
		return nil, fmt.Errorf("%w (%w)", ErrChanged, err)
	}
	if now.Device != f.Device || now.Inode != f.Inode || now.Born != f.Born {
		return nil, ErrChanged
	}
	// By the descriptor that was examined: the path may lead elsewhere by now.
	opened, err := unix.Open(fmt.Sprintf("/proc/self/fd/%d", fd), unix.O_RDONLY|unix.O_CLOEXEC, 0)
	switch {
	case errors.Is(err, unix.EACCES):
		return nil, fmt.Errorf("%w: %w", ErrUnreadable, err)
	case err != nil:
		return nil, fmt.Errorf("the file cannot be opened: %w", err)
	}
	return os.NewFile(uintptr(opened), f.Path), nil
}

// openPath finds path from dir without following any link. The descriptor names what is there and does not open
// it, so that a FIFO does not hang us and a device notices nothing.
func openPath(dir int, path string, resolve uint64) (int, error) {
	return unix.Openat2(dir, path, &unix.OpenHow{
		Flags:   unix.O_PATH | unix.O_NOFOLLOW | unix.O_CLOEXEC,
		Resolve: resolve | unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_MAGICLINKS,
	})
}

// examine returns what fd names, if that is a regular file.
func examine(fd int, path string) (File, error) {
	var st unix.Statx_t
	if err := unix.Statx(fd, "", unix.AT_EMPTY_PATH, unix.STATX_BASIC_STATS|unix.STATX_BTIME, &st); err != nil {
		return File{}, fmt.Errorf("the file cannot be examined: %w", err)
	}
	if st.Mode&unix.S_IFMT != unix.S_IFREG {
		return File{}, fmt.Errorf("this is %s, not a regular file", kindOf(st.Mode))
	}
	file := File{Path: path, Device: unix.Mkdev(st.Dev_major, st.Dev_minor), Inode: st.Ino, Size: int64(st.Size)}
	if st.Mask&unix.STATX_BTIME != 0 {
		file.Born = st.Btime.Sec*1e9 + int64(st.Btime.Nsec)
	}
	return file, nil
}

// changed says of an error that a path which was good a moment ago now gives that it was changed.
func changed(err error) error {
	for _, errno := range []unix.Errno{unix.ENOENT, unix.ENOTDIR, unix.ELOOP, unix.EXDEV} {
		if errors.Is(err, errno) {
			return ErrChanged
		}
	}
	return fmt.Errorf("the file cannot be reached: %w", err)
}
