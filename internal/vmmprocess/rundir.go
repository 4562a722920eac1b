package vmmprocess

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// trashPrefix begins the name of a directory that is being removed.
const trashPrefix = ".trash-"

// MakeRunDir makes the directory of one VMM's sockets and logs: 0700, owned by the user that the VMM runs as
// (0 is metald's own). Its parent exists; the directory itself must not, so that nothing planted there is used:
// os.ErrExist.
func MakeRunDir(path string, uid, gid uint32) error {
	if err := os.Mkdir(path, 0o700); err != nil {
		return fmt.Errorf("run directory: %w", err)
	}
	if uid == 0 && gid == 0 {
		return nil
	}
	if err := os.Lchown(path, int(uid), int(gid)); err != nil {
		return errors.Join(fmt.Errorf("run directory: %w", err), os.Remove(path))
	}
	return nil
}

// RemoveDir removes a directory and all that is in it. It is renamed to a sibling first, so that it is gone for
// everyone at once, and what a crash leaves of it is swept by SweepTrash. Links are removed, never followed. A
// directory that is missing is no error.
func RemoveDir(path string) error {
	trash := filepath.Join(filepath.Dir(path), trashPrefix+rand.Text())
	err := unix.Renameat2(unix.AT_FDCWD, filepath.Clean(path), unix.AT_FDCWD, trash, unix.RENAME_NOREPLACE)
	switch {
	case err == unix.ENOENT:
		return nil
	case err != nil:
		return &os.LinkError{Op: "rename", Old: path, New: trash, Err: err}
	}
	return os.RemoveAll(trash)
}

// SweepTrash removes what interrupted calls of RemoveDir left in parent. A parent that is missing is no error.
func SweepTrash(parent string) error {
	entries, err := os.ReadDir(parent)
	if err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		return err
	}
	var errs []error
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), trashPrefix) {
			errs = append(errs, os.RemoveAll(filepath.Join(parent, e.Name())))
		}
	}
	return errors.Join(errs...)
}
