package qemu

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// plain takes the path out of an error of os: the field says which file, and the host's paths are not the client's.
func plain(err error) error {
	var pathErr *os.PathError
	if errors.As(err, &pathErr) {
		return pathErr.Err
	}
	return err
}

// forUser returns a file with the content of file that a process of another user can open again by /proc/self/fd,
// as QEMU does with kernels: file itself where anybody may read it, else a copy in memory. It owns file.
func forUser(file *os.File, uid uint32) (*os.File, error) {
	info, err := file.Stat()
	if err != nil || uid == 0 || info.Mode().Perm()&0o004 != 0 {
		return file, err
	}
	defer file.Close()
	fd, err := unix.MemfdCreate(strings.TrimLeft(info.Name(), "/"), unix.MFD_CLOEXEC)
	if err != nil {
		return nil, os.NewSyscallError("memfd_create", err)
	}
	memory := os.NewFile(uintptr(fd), info.Name())
	if _, err := io.Copy(memory, io.NewSectionReader(file, 0, info.Size())); err != nil {
		memory.Close()
		return nil, fmt.Errorf("copy %s into memory: %w", info.Name(), err)
	}
	if err := memory.Chmod(0o444); err != nil {
		memory.Close()
		return nil, err
	}
	return memory, nil
}
