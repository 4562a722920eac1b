// Package disk finds the files that VMs may use and makes private copies of them. It is the one place where a
// path that a client sent becomes a file of the host.
package disk

import (
	"errors"
	"fmt"
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
//
// Device, Inode and Born name the file, not the path: a file that was put in its place differs in one of them.
// Filesystems give a freed inode number to the next file, so the time of birth belongs to the name.
type File struct {
	Path   string
	Kind   Kind
	Device uint64
	Inode  uint64
	Born   int64 // unix nanoseconds; 0 where the filesystem does not keep it
	Size   int64 // bytes
}

// Roots are the directories that VMs may use files from. Where one lies within the other, a file belongs to the
// inner one.
type Roots struct {
	Assets  string
	Volumes string
}

// Resolve follows path to a regular file below one of the roots. It opens nothing, neither file nor device nor
// FIFO, and never looks at what is outside of the roots: the answer for a path out there does not depend on
// what is there. Its errors are for the client and do not repeat the path.
func (r Roots) Resolve(path string) (File, error) {
	if !filepath.IsAbs(path) || hasDotDot(path) || strings.ContainsRune(path, 0) {
		return File{}, errors.New("a path must be absolute and have no '..' in it")
	}
	roots := r.list()
	at, rel := innermost(roots, filepath.Clean(path))
	if at == nil {
		return File{}, r.outside()
	}
	file, err := at.resolve(rel)
	switch {
	case errors.Is(err, errEscapes):
		return File{}, fmt.Errorf("the path leads out of its directory by a symbolic link; %w", r.outside())
	case errors.Is(err, unix.ENOENT):
		return File{}, errors.New("there is no such file")
	case err != nil:
		return File{}, err
	}
	file.Kind = at.kind
	if real, _ := innermost(roots, file.Path); real != nil {
		file.Kind = real.kind
	}
	return file, nil
}

func (r Roots) outside() error {
	return fmt.Errorf("VMs may use files below %s (UNKEY_METALD_ASSETS_DIR) and %s (UNKEY_METALD_VOLUMES_DIR) only", r.Assets, r.Volumes)
}

func (r Roots) list() []root {
	var roots []root
	if r.Assets != "" {
		roots = append(roots, newRoot(r.Assets, Template))
	}
	if r.Volumes != "" {
		roots = append(roots, newRoot(r.Volumes, Volume))
	}
	return roots
}

// innermost returns the root that path lies below, and the rest of path; nil if there is none.
func innermost(roots []root, path string) (at *root, rel string) {
	for i := range roots {
		rest, ok := roots[i].holds(path)
		if ok && rest != "" && (at == nil || len(rest) < len(rel)) {
			at, rel = &roots[i], rest
		}
	}
	return at, rel
}

func hasDotDot(path string) bool {
	for part := range strings.SplitSeq(path, "/") {
		if part == ".." {
			return true
		}
	}
	return false
}

func kindOf(mode uint16) string {
	switch mode & unix.S_IFMT {
	case unix.S_IFDIR:
		return "a directory"
	case unix.S_IFLNK:
		return "a symbolic link"
	case unix.S_IFBLK, unix.S_IFCHR:
		return "a device"
	case unix.S_IFIFO:
		return "a FIFO"
	case unix.S_IFSOCK:
		return "a socket"
	}
	return "a special file"
}
