// Package vmassets makes what a first VM needs: an uncompressed kernel, the bzImage it was taken from, and a root disk
// with a shell and our own init. Nothing in it needs root, a mount or a network beyond the Go module proxy; cmd/vm-assets
// is its command line.
package vmassets

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"
)

// Names of the files in an assets directory.
const (
	// KernelFile is the uncompressed ELF: what Firecracker boots, and Cloud Hypervisor and QEMU where it has the PVH
	// note.
	KernelFile = "vmlinux"
	// BzImageFile is what KernelFile was taken from. QEMU and Cloud Hypervisor boot it where the ELF lacks the PVH note.
	BzImageFile = KernelFile + ".bzImage"
	// RootDiskFile is an ext4 file system, without a partition table.
	RootDiskFile = "rootfs.ext4"
)

// Config says what to make and where.
type Config struct {
	Out    string    // the assets directory; made where it is missing
	Kernel string    // KernelGokrazy, KernelMicro, or the path of a bzImage
	Source string    // the root of metald's source tree
	Log    io.Writer // what goes on, for the person who waits
}

// File is one finished file of an assets directory.
type File struct {
	Name  string
	Size  int64         // bytes
	About string        // what it is, in words
	Took  time.Duration // 0: it was up to date
}

// Build makes what is missing or made from other inputs in cfg.Out, and returns all files. Two at once on one directory
// wait for each other. Each file appears whole or not at all.
func Build(ctx context.Context, cfg Config) ([]File, error) {
	if err := os.MkdirAll(cfg.Out, 0o755); err != nil {
		return nil, err
	}
	unlock, err := lock(ctx, cfg.Out, cfg.Log)
	if err != nil {
		return nil, err
	}
	defer unlock()
	work, err := newWorkDir(cfg.Out)
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(work)
	stamp := readStamp(cfg.Out)
	kernel, err := buildKernel(ctx, cfg, work, stamp)
	if err != nil {
		return nil, fmt.Errorf("kernel: %w", err)
	}
	disk, err := buildRootDisk(ctx, cfg, work, stamp)
	if err != nil {
		return nil, fmt.Errorf("root disk: %w", err)
	}
	return append(kernel, disk), nil
}

const workPrefix = ".work-"

// newWorkDir makes a directory on the same file system as the result and removes what a killed run left. The caller
// holds the lock, so nobody else's is removed.
func newWorkDir(out string) (string, error) {
	stale, err := filepath.Glob(filepath.Join(out, workPrefix+"*"))
	if err != nil {
		return "", err
	}
	for _, dir := range stale {
		if err := os.RemoveAll(dir); err != nil {
			return "", err
		}
	}
	// Absolute, as tools run in directories of their own.
	absolute, err := filepath.Abs(out)
	if err != nil {
		return "", err
	}
	return os.MkdirTemp(absolute, workPrefix)
}
