package qemu

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"syscall"
	"unsafe"
)

// checkKernel refuses what QEMU refuses to load.
func checkKernel(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("qemu: could not open kernel file '%s': %w", path, err)
	}
	defer f.Close()
	head, err := io.ReadAll(io.LimitReader(f, 64<<10))
	switch {
	case err != nil:
		return fmt.Errorf("qemu: could not open kernel file '%s': %w", path, err)
	case bytes.HasPrefix(head, []byte("\x7fELF")):
		if !bytes.Contains(head, []byte("\x12\x00\x00\x00Xen\x00")) {
			return says("Error loading uncompressed kernel without PVH ELF Note")
		}
		return nil
	case len(head) < 0x206 || string(head[0x202:0x206]) != "HdrS":
		return fmt.Errorf("qemu: invalid kernel header")
	}
	return nil
}

// lockImages takes the locks that QEMU takes on the images of disks.
func (o *options) lockImages() error {
	for _, b := range o.blockdevs {
		if b.Driver != "file" {
			continue
		}
		set, ok := strings.CutPrefix(b.Filename, "/dev/fdset/")
		n, err := strconv.Atoi(set)
		fd, known := o.fdsets[n]
		if !ok || err != nil || !known {
			return fmt.Errorf("-blockdev: Could not open '%s': No such file or directory", b.Filename)
		}
		if err := checkMode(fd, b.ReadOnly); err != nil {
			return fmt.Errorf("-blockdev: Could not open '%s': %w", b.Filename, err)
		}
		if err := lockImage(fd, b.ReadOnly); err != nil {
			return fmt.Errorf("-device: %w\nIs another process using the image [%s]?", err, b.Filename)
		}
	}
	return nil
}

// checkMode: QEMU takes from a set of descriptors only one that was opened the way it would open the file.
func checkMode(fd int, readOnly bool) error {
	mode, _, errno := syscall.Syscall(syscall.SYS_FCNTL, uintptr(fd), syscall.F_GETFL, 0)
	if errno != 0 {
		return errno
	}
	if (mode&syscall.O_ACCMODE == syscall.O_RDONLY) != readOnly {
		return syscall.EACCES
	}
	return nil
}

// What QEMU locks of an image (block/file-posix.c): a byte for each permission that it uses, from permBase on, and a
// byte for each that others must not use, from sharedBase on. A device uses read, and write unless it is read-only; it
// shares reading only.
const (
	permBase, sharedBase   = 100, 200
	permRead, permWrite    = 0, 1
	ofdGetLock, ofdSetLock = 36, 37 // F_OFD_GETLK, F_OFD_SETLK
)

func lockImage(fd int, readOnly bool) error {
	uses := []int64{permRead}
	if !readOnly {
		uses = append(uses, permWrite)
	}
	for _, perm := range uses {
		if err := lockByte(fd, permBase+perm); err != nil {
			return err
		}
	}
	if err := lockByte(fd, sharedBase+permWrite); err != nil {
		return err
	}
	for _, perm := range uses {
		if lockedByOther(fd, sharedBase+perm) {
			return says(`Failed to get "%s" lock`, map[int64]string{permRead: "consistent read", permWrite: "write"}[perm])
		}
	}
	if lockedByOther(fd, permBase+permWrite) {
		return says(`Failed to get shared "write" lock`)
	}
	return nil
}

func lockByte(fd int, at int64) error {
	lock := syscall.Flock_t{Type: syscall.F_RDLCK, Whence: io.SeekStart, Start: at, Len: 1}
	return ofdLock(fd, ofdSetLock, &lock)
}

func lockedByOther(fd int, at int64) bool {
	lock := syscall.Flock_t{Type: syscall.F_WRLCK, Whence: io.SeekStart, Start: at, Len: 1}
	return ofdLock(fd, ofdGetLock, &lock) != nil || lock.Type != syscall.F_UNLCK
}

func ofdLock(fd int, command uintptr, lock *syscall.Flock_t) error {
	_, _, errno := syscall.Syscall(syscall.SYS_FCNTL, uintptr(fd), command, uintptr(unsafe.Pointer(lock)))
	if errno != 0 {
		return errno
	}
	return nil
}
