package cgroup_test

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/unkeyed/unkey/go/deploy/metald/internal/host/cgroup"
)

func TestDeviceOf(t *testing.T) {
	if _, _, err := cgroup.DeviceOf("/proc/self/status"); !errors.Is(err, cgroup.ErrNoDevice) {
		t.Errorf("of a file of procfs: %v", err)
	}
	if _, _, err := cgroup.DeviceOf(t.TempDir() + "/missing"); !errors.Is(err, fs.ErrNotExist) || errors.Is(err, cgroup.ErrNoDevice) {
		t.Errorf("of a missing file: %v", err)
	}
}

func TestDeviceOfTmpfs(t *testing.T) {
	dir := t.TempDir()
	if err := unix.Mount("none", dir, "tmpfs", 0, ""); err != nil {
		t.Skipf("tmpfs can not be mounted: %v", err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, 0); err != nil {
			t.Error(err)
		}
	})
	write(t, dir+"/disk", "")
	if _, _, err := cgroup.DeviceOf(dir + "/disk"); !errors.Is(err, cgroup.ErrNoDevice) {
		t.Errorf("%v, want ErrNoDevice", err)
	}
}

// A device is its own, and that which a file is on is one that sysfs lists as a disk.
func TestDeviceOfThisHost(t *testing.T) {
	devices, err := filepath.Glob("/sys/block/*/dev")
	if err != nil || len(devices) == 0 {
		t.Skip("the host has no block devices")
	}
	disks := map[[2]uint32]bool{}
	for _, file := range devices {
		text := read(t, filepath.Dir(file), "dev")
		name := filepath.Base(filepath.Dir(file))
		node := "/dev/" + strings.ReplaceAll(name, "!", "/")
		major, minor, err := cgroup.DeviceOf(node)
		if errors.Is(err, fs.ErrNotExist) {
			continue // no node
		}
		if err != nil || text != decimal(major)+":"+decimal(minor) {
			t.Errorf("%s: %d:%d, %v, want %s", node, major, minor, err, text)
		}
		disks[[2]uint32{major, minor}] = true
	}
	major, minor, err := cgroup.DeviceOf(t.TempDir())
	if errors.Is(err, cgroup.ErrNoDevice) {
		t.Skip("the directory of temporary files is on no block device")
	}
	if err != nil || !disks[[2]uint32{major, minor}] {
		t.Errorf("%d:%d, %v, is none of the disks %v", major, minor, err, disks)
	}
}

func TestDiskOfPartition(t *testing.T) {
	sysfs := t.TempDir()
	disk := sysfs + "/devices/pci/nvme0n1"
	write(t, disk+"/dev", "259:0\n")
	write(t, disk+"/nvme0n1p2/dev", "259:2\n")
	write(t, disk+"/nvme0n1p2/partition", "2\n")
	write(t, sysfs+"/devices/virtual/block/dm-0/dev", "253:0\n")
	write(t, sysfs+"/dev/block/README", "")
	for numbers, dir := range map[string]string{
		"259:0": "pci/nvme0n1", "259:2": "pci/nvme0n1/nvme0n1p2", "253:0": "virtual/block/dm-0",
	} {
		if err := os.Symlink("../../devices/"+dir, sysfs+"/dev/block/"+numbers); err != nil {
			t.Fatal(err)
		}
	}
	for _, tc := range [][4]uint32{{259, 0, 259, 0}, {259, 2, 259, 0}, {253, 0, 253, 0}} {
		major, minor, err := cgroup.DiskIn(sysfs+"/dev/block", tc[0], tc[1])
		if err != nil || major != tc[2] || minor != tc[3] {
			t.Errorf("disk of %d:%d is %d:%d, %v; want %d:%d", tc[0], tc[1], major, minor, err, tc[2], tc[3])
		}
	}
	if _, _, err := cgroup.DiskIn(sysfs+"/dev/block", 8, 1); err == nil || errors.Is(err, cgroup.ErrNoDevice) {
		t.Errorf("of a device that sysfs does not have: %v", err)
	}
}

func decimal(n uint32) string { return strconv.FormatUint(uint64(n), 10) }
