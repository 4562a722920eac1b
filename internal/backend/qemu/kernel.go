package qemu

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/unkeyed/unkey/go/deploy/metald/internal/backend/types"
)

const kernelField = "config.boot.kernel_path"

// siblingSuffix ends the name of the bootable twin of an uncompressed kernel.
const siblingSuffix = ".bzImage"

// maxInspected bounds how many kernels' inspections are remembered.
const maxInspected = 64

// kernels opens kernel files in a form that QEMU boots, and remembers what it found in them.
type kernels struct {
	mu   sync.Mutex // guards seen
	seen map[fileVersion]kernelImage
}

// fileVersion names one content of one file, as far as the file system tells.
type fileVersion struct {
	device, inode uint64
	size, mtime   int64 // bytes, nanoseconds
}

// open returns the kernel at path, or its twin path.bzImage of the same version where path is an ELF that QEMU can't
// enter: Firecracker and Cloud Hypervisor want the uncompressed kernel, so both may lie side by side. What isn't a
// kernel is KindInvalid and names the field.
func (k *kernels) open(path string) (*os.File, error) {
	file, image, err := k.inspectPath(path, 0)
	if err != nil {
		return nil, err
	}
	if image.format != formatELF {
		return file, nil
	}
	file.Close()
	return k.openSibling(path, image)
}

func (k *kernels) openSibling(path string, image kernelImage) (*os.File, error) {
	const remedy = "QEMU cannot enter an uncompressed kernel without a PVH note: give the bzImage of this kernel, " +
		"build it with CONFIG_PVH=y, or put its bzImage beside it as %s"
	sibling := path + siblingSuffix
	file, twin, err := k.inspectPath(sibling, unix.O_NOFOLLOW)
	if err != nil {
		return nil, types.FieldErrorf(types.KindInvalid, kernelField, remedy, sibling)
	}
	switch {
	case twin.format != formatBzImage:
		err = types.FieldErrorf(types.KindInvalid, kernelField, remedy+"; what is there is no bzImage", sibling)
	case twin.release == "" || twin.release != image.release:
		err = types.FieldErrorf(types.KindInvalid, kernelField, remedy+"; what is there is Linux %q and this is %q",
			sibling, twin.release, image.release)
	default:
		return file, nil
	}
	file.Close()
	return nil, err
}

// inspectPath opens path and says what kernel it holds.
func (k *kernels) inspectPath(path string, flags int) (*os.File, kernelImage, error) {
	// A FIFO must not hold up the create, so the open doesn't wait for a writer.
	file, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK|flags, 0)
	if err != nil {
		return nil, kernelImage{}, types.FieldErrorf(types.KindInvalid, kernelField, "the kernel cannot be opened: %w", plain(err))
	}
	image, err := k.inspect(file)
	if err != nil {
		file.Close()
		return nil, kernelImage{}, err
	}
	return file, image, nil
}

func (k *kernels) inspect(file *os.File) (kernelImage, error) {
	var st unix.Stat_t
	if err := unix.Fstat(int(file.Fd()), &st); err != nil {
		return kernelImage{}, os.NewSyscallError("fstat", err)
	}
	if st.Mode&unix.S_IFMT != unix.S_IFREG {
		return kernelImage{}, types.FieldErrorf(types.KindInvalid, kernelField, "not a regular file")
	}
	version := fileVersion{device: st.Dev, inode: st.Ino, size: st.Size, mtime: st.Mtim.Nano()}
	if image, ok := k.known(version); ok {
		return image, nil
	}
	image, err := inspectKernel(file, st.Size)
	if err != nil {
		return kernelImage{}, types.FieldErrorf(types.KindInvalid, kernelField, "%w", err)
	}
	k.remember(version, image)
	return image, nil
}

func (k *kernels) known(v fileVersion) (kernelImage, bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	image, ok := k.seen[v]
	return image, ok
}

func (k *kernels) remember(v fileVersion, image kernelImage) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.seen == nil || len(k.seen) >= maxInspected {
		k.seen = map[fileVersion]kernelImage{}
	}
	k.seen[v] = image
}

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
