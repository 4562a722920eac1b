// Package disk finds the files that VMs may use and makes private copies of them. It is the one place where a
// path that a client sent becomes a file of the host.
package disk

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// Kind says how a file may be used.
type Kind uint8

const (
	// Template is an immutable file below the assets directory: many VMs use it, none writes to it.
	Template Kind = iota
	// Volume is a file below the volumes directory: attached as it is, to one writer at most.
	Volume
)

// File is a regular file of the host that a VM may use. Path has no symbolic links left in it.
type File struct {
	Path   string
	Kind   Kind
	Device uint64
	Inode  uint64
	Size   int64 // bytes
}

// Roots are the directories that VMs may use files from.
type Roots struct {
	Assets  string
	Volumes string
}

// Resolve follows path to a regular file below one of the roots. It never opens a device, a FIFO or a
// directory, and never looks at what is outside of the roots. Its errors are for the client and do not repeat
// the path.
func (r Roots) Resolve(path string) (File, error) {
	if !filepath.IsAbs(path) || hasDotDot(path) || strings.ContainsRune(path, 0) {
		return File{}, errors.New("a path must be absolute and have no '..' in it")
	}
	path = filepath.Clean(path)
	for _, root := range []struct {
		dir  string
		kind Kind
	}{{r.Assets, Template}, {r.Volumes, Volume}} {
		if root.dir == "" {
			continue
		}
		real, err := filepath.EvalSymlinks(root.dir)
		if err != nil {
			continue
		}
		for _, dir := range []string{root.dir, real} {
			if rel, ok := below(dir, path); ok {
				return r.resolveBelow(real, rel, root.kind)
			}
		}
	}
	return File{}, r.outside()
}

func (r Roots) outside() error {
	return fmt.Errorf("VMs may use files below %s (UNKEY_METALD_ASSETS_DIR) and %s (UNKEY_METALD_VOLUMES_DIR) only", r.Assets, r.Volumes)
}

// resolveBelow follows links by name first, so that the message can tell an escape from a missing file, and
// then opens what it came to without following any: a link swapped in between is refused.
func (r Roots) resolveBelow(root, rel string, kind Kind) (File, error) {
	real, err := filepath.EvalSymlinks(filepath.Join(root, rel))
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return File{}, errors.New("there is no such file")
	case err != nil:
		return File{}, fmt.Errorf("the file cannot be reached: %w", bare(err))
	}
	rel, ok := below(root, real)
	if !ok {
		return File{}, fmt.Errorf("the path leads out of its directory by a symbolic link; %w", r.outside())
	}
	f, err := openBeneath(root, rel, unix.O_RDONLY)
	if err != nil {
		return File{}, fmt.Errorf("the file cannot be opened: %w", bare(err))
	}
	defer f.Close()
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return File{}, fmt.Errorf("the file cannot be examined: %w", err)
	}
	if st.Mode&unix.S_IFMT != unix.S_IFREG {
		return File{}, fmt.Errorf("this is %s, not a regular file", kindOf(st.Mode))
	}
	return File{Path: real, Kind: kind, Device: uint64(st.Dev), Inode: st.Ino, Size: st.Size}, nil
}

// openBeneath opens rel below root; no component of it may be a link. O_NONBLOCK keeps a FIFO from hanging us.
func openBeneath(root, rel string, flags uint64) (*os.File, error) {
	dir, err := unix.Open(root, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	defer unix.Close(dir)
	fd, err := unix.Openat2(dir, rel, &unix.OpenHow{
		Flags:   flags | unix.O_CLOEXEC | unix.O_NONBLOCK | unix.O_NOCTTY,
		Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_MAGICLINKS,
	})
	if err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(fd), rel), nil
}

// below returns path relative to dir if it lies strictly below it.
func below(dir, path string) (string, bool) {
	rel, ok := strings.CutPrefix(path, strings.TrimSuffix(filepath.Clean(dir), "/")+"/")
	return rel, ok && rel != ""
}

func hasDotDot(path string) bool {
	for part := range strings.SplitSeq(path, "/") {
		if part == ".." {
			return true
		}
	}
	return false
}

// bare takes the path out of an error, which may be one that the client did not send.
func bare(err error) error {
	var pe *fs.PathError
	if errors.As(err, &pe) {
		return pe.Err
	}
	return err
}

func kindOf(mode uint32) string {
	switch mode & unix.S_IFMT {
	case unix.S_IFDIR:
		return "a directory"
	case unix.S_IFBLK, unix.S_IFCHR:
		return "a device"
	case unix.S_IFIFO:
		return "a FIFO"
	case unix.S_IFSOCK:
		return "a socket"
	}
	return "a special file"
}
