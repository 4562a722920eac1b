package firecracker

import (
	"debug/elf"
	"errors"
	"os"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/unkeyed/unkey/go/deploy/metald/internal/backend/program"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/backend/types"
)

const kernelField = "config.boot.kernel_path"

// maxKernels bounds how many kernels' inspections are remembered.
const maxKernels = 64

// kernels looks at kernel files: Firecracker itself does so only when the guest is to start.
type kernels struct {
	mu   sync.Mutex // guards good
	good map[program.File]bool
}

// check says what is wrong with the kernel at path.
func (k *kernels) check(path string) error {
	// A FIFO must not hold up the create, so the open does not wait for a writer.
	file, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return types.FieldErrorf(types.KindInvalid, kernelField, "the kernel cannot be opened: %w", plain(err))
	}
	defer file.Close()
	info, err := file.Stat()
	if err != nil {
		return err
	}
	if !info.Mode().IsRegular() {
		return types.FieldErrorf(types.KindInvalid, kernelField, "not a regular file")
	}
	key := program.FileOf("", info)
	k.mu.Lock()
	known := k.good[key]
	k.mu.Unlock()
	if known {
		return nil
	}
	if err := inspectKernel(file); err != nil {
		return types.FieldErrorf(types.KindInvalid, kernelField, "%w", err)
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.good == nil || len(k.good) >= maxKernels {
		k.good = map[program.File]bool{}
	}
	k.good[key] = true
	return nil
}

// inspectKernel takes what the loader of Firecracker 1.16 takes (src/vmm/src/arch/x86_64/mod.rs, load_kernel): an
// uncompressed ELF file.
func inspectKernel(file *os.File) error {
	f, err := elf.NewFile(file)
	if err != nil {
		return errors.New("not a kernel that Firecracker boots: it takes an uncompressed ELF file (vmlinux), and this is none")
	}
	if f.Machine != elf.EM_X86_64 || f.Type != elf.ET_EXEC && f.Type != elf.ET_DYN {
		return errors.New("not a kernel for x86-64")
	}
	for _, p := range f.Progs {
		if p.Type == elf.PT_INTERP {
			return errors.New("not a kernel but a program")
		}
	}
	return nil
}

// plain takes the path out of an error of os: the field says which file, and the host's paths are not the client's.
func plain(err error) error {
	var inPath *os.PathError
	if errors.As(err, &inPath) {
		return inPath.Err
	}
	return err
}
