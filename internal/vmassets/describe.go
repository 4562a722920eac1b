package vmassets

import (
	"os"
	"path/filepath"
	"time"
)

// describe says what a finished file is, from the file itself.
func describe(dir, name string, took time.Duration) (File, error) {
	f, err := os.Open(filepath.Join(dir, name))
	if err != nil {
		return File{}, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return File{}, err
	}
	file := File{Name: name, Size: info.Size(), Took: took}
	switch name {
	case KernelFile:
		pvh, err := inspectKernel(f)
		if err != nil {
			return File{}, err
		}
		file.About = "kernel, uncompressed ELF without the PVH note"
		if pvh {
			file.About = "kernel, uncompressed ELF with the PVH note"
		}
	case BzImageFile:
		file.About = "the bzImage it was taken from"
	case RootDiskFile:
		file.About = "root disk, ext4: a busybox shell and guest-init"
	}
	return file, nil
}
