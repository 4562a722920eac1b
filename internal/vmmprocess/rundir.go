package vmmprocess

import (
	"errors"
	"fmt"
	"os"
)

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
