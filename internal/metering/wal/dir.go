package wal

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"syscall"
)

// Dir is the directory of a log: what the log needs of a file system, and all that it uses.
type Dir interface {
	// List returns the names of the files, in any order.
	List() ([]string, error)
	// Create makes a file, for reading and writing, and refuses one that exists.
	Create(name string) (File, error)
	// Open opens a file for reading and writing.
	Open(name string) (File, error)
	// Rename replaces what has the new name.
	Rename(from, to string) error
	Remove(name string) error
	// Sync makes durable which files there are.
	Sync() error
}

// File is an open file of a Dir.
type File interface {
	io.ReaderAt
	io.WriterAt
	io.Closer
	Size() (int64, error)
	// Allocate extends the file to size, by zeros, and claims the room on the disk.
	Allocate(size int64) error
	Truncate(size int64) error
	// Sync makes contents and size durable. After an error nothing is known of what was written since the last one.
	Sync() error
}

// osDir is a Dir on the host's file system.
type osDir struct {
	path     string
	readOnly bool
	self     *os.File
}

// openDir opens a directory, and makes it where it is missing and may be written. At most one Log may write it: it is
// locked until Close.
func openDir(path string, readOnly bool) (*osDir, error) {
	if !readOnly {
		if err := os.MkdirAll(path, 0o700); err != nil {
			return nil, err
		}
	}
	self, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	if !readOnly {
		if err := syscall.Flock(int(self.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
			return nil, errors.Join(fmt.Errorf("lock %s, which another process may use: %w", path, err), self.Close())
		}
	}
	return &osDir{path: path, readOnly: readOnly, self: self}, nil
}

func (d *osDir) Close() error { return d.self.Close() }

func (d *osDir) List() ([]string, error) {
	entries, err := os.ReadDir(d.path)
	if err != nil {
		return nil, err
	}
	var names []string
	for _, e := range entries {
		if e.Type().IsRegular() {
			names = append(names, e.Name())
		}
	}
	return names, nil
}

func (d *osDir) Create(name string) (File, error) {
	return d.open(name, os.O_RDWR|os.O_CREATE|os.O_EXCL)
}

func (d *osDir) Open(name string) (File, error) {
	if d.readOnly {
		return d.open(name, os.O_RDONLY)
	}
	return d.open(name, os.O_RDWR)
}

func (d *osDir) open(name string, flags int) (File, error) {
	f, err := os.OpenFile(filepath.Join(d.path, name), flags|syscall.O_NOFOLLOW, 0o600)
	if err != nil {
		return nil, err
	}
	return &osFile{File: f, fd: int(f.Fd())}, nil
}

func (d *osDir) Rename(from, to string) error {
	return os.Rename(filepath.Join(d.path, from), filepath.Join(d.path, to))
}

func (d *osDir) Remove(name string) error { return os.Remove(filepath.Join(d.path, name)) }

func (d *osDir) Sync() error { return d.self.Sync() }

// osFile keeps the number of its descriptor, which os.File looks up under a lock.
type osFile struct {
	*os.File
	fd int
}

func (f *osFile) Size() (int64, error) {
	info, err := f.Stat()
	if err != nil {
		return 0, err
	}
	return info.Size(), nil
}

// Allocate leaves it to the caller to write zeros, where it wants extents that need no conversion at the first write.
func (f *osFile) Allocate(size int64) error {
	err := interrupted(func() error { return syscall.Fallocate(f.fd, 0, 0, size) })
	if errors.Is(err, syscall.EOPNOTSUPP) { // some file systems, such as NFS 3
		return f.Truncate(size)
	}
	return os.NewSyscallError("fallocate", err)
}

func (f *osFile) Sync() error {
	return os.NewSyscallError("fdatasync", interrupted(func() error { return syscall.Fdatasync(f.fd) }))
}

// interrupted repeats a system call that a signal interrupted, as the runtime's may.
func interrupted(call func() error) error {
	for {
		if err := call(); !errors.Is(err, syscall.EINTR) {
			return err
		}
	}
}
