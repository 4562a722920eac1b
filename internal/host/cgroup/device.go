package cgroup

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// ErrNoDevice says that the kernel can not hold back a file's I/O by device: there is none, as with tmpfs, or the
// filesystem does not say which, as with overlayfs and btrfs.
var ErrNoDevice = errors.New("no block device to limit")

// DeviceOf returns the disk that a file is on, or that it is, in the numbers that IOLimit wants: of a partition, the
// whole disk. Links are followed. Where there is none the error wraps ErrNoDevice.
func DeviceOf(path string) (major, minor uint32, err error) {
	return deviceOf("/sys/dev/block", path)
}

func deviceOf(sysfs, path string) (major, minor uint32, err error) {
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		return 0, 0, &fs.PathError{Op: "device of", Path: path, Err: err}
	}
	dev := st.Dev
	if st.Mode&unix.S_IFMT == unix.S_IFBLK {
		dev = st.Rdev
	}
	major, minor, err = disk(sysfs, unix.Major(dev), unix.Minor(dev))
	if err != nil {
		return 0, 0, fmt.Errorf("device of %s: %w", path, err)
	}
	return major, minor, nil
}

// disk returns the disk of a partition, and any other device as it is. sysfs links the numbers to devices, and a
// partition's directory is in its disk's.
func disk(sysfs string, major, minor uint32) (uint32, uint32, error) {
	if major == 0 { // the kernel's numbers for what is no device
		return 0, 0, fmt.Errorf("%w (%d:%d)", ErrNoDevice, major, minor)
	}
	dir, err := filepath.EvalSymlinks(filepath.Join(sysfs, fmt.Sprintf("%d:%d", major, minor)))
	if err != nil {
		return 0, 0, err
	}
	if !exists(dir, "partition") {
		return major, minor, nil
	}
	text, err := os.ReadFile(filepath.Join(filepath.Dir(dir), "dev"))
	if err != nil {
		return 0, 0, err
	}
	if _, err := fmt.Sscanf(string(text), "%d:%d", &major, &minor); err != nil {
		return 0, 0, fmt.Errorf("disk of %s: %w", dir, err)
	}
	return major, minor, nil
}
