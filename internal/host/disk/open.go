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
	if !now.Same(f) {
		return nil, ErrChanged
	}
	return reopen(fd, f.Path)
}

// Same tells whether both are the same file, whatever their paths.
func (f File) Same(other File) bool {
	return f.Device == other.Device && f.Inode == other.Inode && f.Born == other.Born
}

// Pinned is a regular file that is held but not open: whatever is put at its path, it stays this one.
type Pinned struct {
	File
	held *os.File // O_PATH
}

// Pin finds the regular file at an absolute path with no symbolic link in it. Errors: os.ErrNotExist; unix.ELOOP for a
// link. The kind is not known.
func Pin(path string) (*Pinned, error) {
	fd, err := openPath(unix.AT_FDCWD, path, 0)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: path, Err: err}
	}
	file, err := examine(fd, path)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("%s: %w", path, err), unix.Close(fd))
	}
	return &Pinned{file, os.NewFile(uintptr(fd), path)}, nil
}

// Fd is an O_PATH descriptor of the file, until Close.
func (p *Pinned) Fd() int { return int(p.held.Fd()) }

// Name is a path that leads to the file whatever was put at its own, until Close, and in this process alone.
func (p *Pinned) Name() string { return fmt.Sprintf("/proc/self/fd/%d", p.Fd()) }

// Reopen opens the file for reading; ErrUnreadable where metald may not.
func (p *Pinned) Reopen() (*os.File, error) { return reopen(p.Fd(), p.Path) }

// Close lets go of the file.
func (p *Pinned) Close() error { return p.held.Close() }

// reopen opens what fd names: its path may lead elsewhere by now.
func reopen(fd int, path string) (*os.File, error) {
	opened, err := unix.Open(fmt.Sprintf("/proc/self/fd/%d", fd), unix.O_RDONLY|unix.O_CLOEXEC, 0)
	switch {
	case errors.Is(err, unix.EACCES):
		return nil, fmt.Errorf("%w: %w", ErrUnreadable, err)
	case err != nil:
		return nil, fmt.Errorf("the file cannot be opened: %w", err)
	}
	return os.NewFile(uintptr(opened), path), nil
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
