// Package kernelimage opens the kernels of guests in a form that a VMM boots which takes a bzImage, or an ELF file with
// the note of its PVH entry.
package kernelimage

import (
	"errors"
	"os"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/unkeyed/unkey/go/deploy/metald/internal/backend/types"
)

// Field is the field of a config whose kernels these are.
const Field = "config.boot.kernel_path"

// SiblingSuffix ends the name of the bootable twin of an uncompressed kernel.
const SiblingSuffix = ".bzImage"

// maxInspected bounds how many kernels' inspections are remembered.
const maxInspected = 64

// Opener opens kernel files for a VMM, and remembers what it found in them. It is safe for concurrent use.
type Opener struct {
	VMM string // its name, for people

	mu   sync.Mutex // guards seen
	seen map[fileVersion]kernel
}

// fileVersion names one content of one file, as far as the file system tells.
type fileVersion struct {
	device, inode uint64
	size, mtime   int64 // bytes, nanoseconds
}

// Open returns the kernel at path, or its twin path.bzImage of the same version where path is an ELF that the VMM
// can't enter: Firecracker wants the uncompressed kernel, so both may lie side by side. The file has the name
// that it was opened by. What isn't a kernel is KindInvalid and names the field.
func (k *Opener) Open(path string) (*os.File, error) {
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

func (k *Opener) openSibling(path string, image kernel) (*os.File, error) {
	const remedy = "%s cannot enter an uncompressed kernel without a PVH note: give the bzImage of this kernel, " +
		"build it with CONFIG_PVH=y, or put its bzImage beside it as %s"
	sibling := path + SiblingSuffix
	file, twin, err := k.inspectPath(sibling, unix.O_NOFOLLOW)
	if err != nil {
		return nil, types.FieldErrorf(types.KindInvalid, Field, remedy, k.VMM, sibling)
	}
	switch {
	case twin.format != formatBzImage:
		err = types.FieldErrorf(types.KindInvalid, Field, remedy+"; what is there is no bzImage", k.VMM, sibling)
	case twin.release == "" || twin.release != image.release:
		err = types.FieldErrorf(types.KindInvalid, Field, remedy+"; what is there is Linux %q and this is %q",
			k.VMM, sibling, twin.release, image.release)
	default:
		return file, nil
	}
	file.Close()
	return nil, err
}

// inspectPath opens path and says what kernel it holds.
func (k *Opener) inspectPath(path string, flags int) (*os.File, kernel, error) {
	// A FIFO must not hold up the create, so the open doesn't wait for a writer.
	file, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK|flags, 0)
	if err != nil {
		return nil, kernel{}, types.FieldErrorf(types.KindInvalid, Field, "the kernel cannot be opened: %w", plain(err))
	}
	image, err := k.inspect(file)
	if err != nil {
		file.Close()
		return nil, kernel{}, err
	}
	return file, image, nil
}

func (k *Opener) inspect(file *os.File) (kernel, error) {
	var st unix.Stat_t
	if err := unix.Fstat(int(file.Fd()), &st); err != nil {
		return kernel{}, os.NewSyscallError("fstat", err)
	}
	if st.Mode&unix.S_IFMT != unix.S_IFREG {
		return kernel{}, types.FieldErrorf(types.KindInvalid, Field, "not a regular file")
	}
	version := fileVersion{device: st.Dev, inode: st.Ino, size: st.Size, mtime: st.Mtim.Nano()}
	if image, ok := k.known(version); ok {
		return image, nil
	}
	image, err := inspectKernel(file, st.Size)
	if err != nil {
		return kernel{}, types.FieldErrorf(types.KindInvalid, Field, "%w", err)
	}
	k.remember(version, image)
	return image, nil
}

func (k *Opener) known(v fileVersion) (kernel, bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	image, ok := k.seen[v]
	return image, ok
}

func (k *Opener) remember(v fileVersion, image kernel) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.seen == nil || len(k.seen) >= maxInspected {
		k.seen = map[fileVersion]kernel{}
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
