package vmassets

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
)

// Check says whether dir holds assets that guests can boot from: all files there and unchanged, the kernel the one in the
// bzImage, the root disk an ext4 file system with nothing to replay. It reports everything that is wrong at once.
func Check(dir string) ([]File, error) {
	s := readStamp(dir)
	var files []File
	var errs []error
	for _, name := range []string{KernelFile, BzImageFile, RootDiskFile} {
		file, err := describe(dir, name, 0)
		errs = append(errs, err, s.verify(dir, name))
		files = append(files, file)
	}
	if err := errors.Join(errs...); err != nil {
		return nil, fmt.Errorf("%s: %w", dir, err)
	}
	errs = append(errs, checkPair(dir), checkDisk(filepath.Join(dir, RootDiskFile)))
	if err := errors.Join(errs...); err != nil {
		return nil, fmt.Errorf("%s: %w", dir, err)
	}
	return files, nil
}

func checkPair(dir string) error {
	image, err := os.ReadFile(filepath.Join(dir, BzImageFile))
	if err != nil {
		return err
	}
	inside, err := Uncompress(image)
	if err != nil {
		return fmt.Errorf("%s: %w", BzImageFile, err)
	}
	kernel, err := os.ReadFile(filepath.Join(dir, KernelFile))
	if err == nil && !bytes.Equal(kernel, inside) {
		err = fmt.Errorf("%s holds another kernel than %s", BzImageFile, KernelFile)
	}
	return err
}

// Fields of the ext4 superblock (fs/ext4/ext4.h), from the start of the disk.
const (
	superMagic      = 1024 + 0x38
	superState      = 1024 + 0x3a
	superIncompat   = 1024 + 0x60
	superEnd        = 2048
	ext4Magic       = 0xef53
	ext4StateClean  = 1
	incompatRecover = 4 // the journal has something to replay
)

// checkDisk reads the superblock: a read-only attach mounts only what needs no replay.
func checkDisk(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	super := make([]byte, superEnd)
	if _, err := f.ReadAt(super, 0); err != nil {
		return fmt.Errorf("%s: %w", RootDiskFile, err)
	}
	le := binary.LittleEndian
	switch {
	case le.Uint16(super[superMagic:]) != ext4Magic:
		return fmt.Errorf("%s is not an ext4 file system", RootDiskFile)
	case le.Uint16(super[superState:])&ext4StateClean == 0, le.Uint32(super[superIncompat:])&incompatRecover != 0:
		return fmt.Errorf("%s was not unmounted: a guest that was killed used the template itself", RootDiskFile)
	}
	return nil
}
