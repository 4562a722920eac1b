package cgroup

import (
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// kernel is what changes a hierarchy. Reading needs no seam: files are files.
type kernel interface {
	mkdir(dir string) error
	rmdir(dir string) error
	// write gives the whole value to a file that exists, in one call.
	write(file, value string) error
}

// cgroupfs is the real one.
type cgroupfs struct{}

func (cgroupfs) mkdir(dir string) error { return os.Mkdir(dir, 0o755) }

// rmdir is not os.Remove, which tries to unlink first and then reports that errno of the two it likes better.
func (cgroupfs) rmdir(dir string) error {
	for {
		if err := unix.Rmdir(dir); err == nil {
			return nil
		} else if err != unix.EINTR {
			return &os.PathError{Op: "rmdir", Path: dir, Err: err}
		}
	}
}

func (cgroupfs) write(file, value string) error {
	f, err := os.OpenFile(file, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteString(value)
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	return err
}

// isDir tells whether dir is there and a group: the files of a group have names that groups could have.
func isDir(dir string) bool {
	info, err := os.Lstat(dir)
	return err == nil && info.IsDir()
}

// exists tells whether a group has a file, which is how a kernel says what it can do.
func exists(dir, file string) bool {
	_, err := os.Lstat(filepath.Join(dir, file))
	return err == nil
}
