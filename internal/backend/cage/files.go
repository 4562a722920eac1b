package cage

import (
	"context"
	"errors"
	"fmt"
	"os"
	"syscall"

	"github.com/unkeyed/unkey/go/deploy/metald/internal/backend/types"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/host/disk"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/host/jail"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/vmmprocess/jailer"
)

// Names of a VM's files in its VMM's root, from there: those of a jail's layout, jailer or not.
const (
	Kernel = jailer.Kernel
	Initrd = jailer.Initrd
)

// Disk is the name of the disk with the given index in the spec of the VM.
func Disk(i int) string { return jailer.Disk(i) }

// Inside returns a request as a VMM sees it that finds what has a name in its root by the path that inside returns.
func Inside(req types.CreateRequest, inside func(name string) string) types.CreateRequest {
	req.Kernel = inside(Kernel)
	if req.Spec.Boot.InitrdPath != "" {
		req.Initrd = inside(Initrd)
	}
	disks := make([]string, len(req.Disks))
	for i := range disks {
		disks[i] = inside(Disk(i))
	}
	req.Disks = disks
	return req
}

// Files are the files of a VM in its VMM's root.
type Files struct {
	// Lent are those that belong to another user while no VM has them. They are to be recorded, so that they can be given
	// back whenever metald dies.
	Lent    []jail.Loan
	Mounted bool // some are mounts, so that their directory goes by jail.Remove

	lend []jail.Loan
}

// Place puts the files of a request into a root. After an error the root is to be removed.
func (f *Files) Place(ctx context.Context, root *jail.Jail, req types.CreateRequest) error {
	if err := f.put(ctx, root, "config.boot.kernel_path", jail.File{Name: Kernel, Source: req.Kernel}); err != nil {
		return err
	}
	if req.Spec.Boot.InitrdPath != "" {
		if err := f.put(ctx, root, "config.boot.initrd_path", jail.File{Name: Initrd, Source: req.Initrd}); err != nil {
			return err
		}
	}
	for i, d := range req.Spec.Disks {
		file := jail.File{Name: Disk(i), Source: req.Disks[i]}
		if !d.ReadOnly {
			file.Kind = jail.Writable
		}
		if err := f.put(ctx, root, fmt.Sprintf("config.storage[%d].path", i), file); err != nil {
			return err
		}
	}
	return nil
}

func (f *Files) put(ctx context.Context, root *jail.Jail, field string, file jail.File) error {
	placed, err := root.Place(ctx, file)
	if err != nil {
		return types.FieldErrorf(kindOfFile(ctx, err), field, "the VMM cannot be given the file: %w", plain(err))
	}
	f.Mounted = f.Mounted || placed.Way == jail.Mount
	if loan := placed.Loan; loan != nil {
		f.lend = append(f.lend, *loan)
		if loan.UID != root.Owner().UID {
			f.Lent = append(f.Lent, *loan)
		}
	}
	return nil
}

// kindOfFile says what an error of placing a file is to the client.
func kindOfFile(ctx context.Context, err error) types.Kind {
	switch {
	case ctx.Err() != nil:
		return types.KindCanceled
	case errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT):
		return types.KindExhausted
	case errors.Is(err, disk.ErrChanged):
		return types.KindPrecondition
	case errors.Is(err, os.ErrNotExist), errors.Is(err, disk.ErrUnreadable), errors.Is(err, syscall.ELOOP):
		return types.KindInvalid
	}
	return types.KindInternal
}

// Give makes what the guest writes to the VM's user's. It comes after Lent was recorded.
func (f *Files) Give() error {
	for _, loan := range f.lend {
		if err := loan.Give(); err != nil {
			return types.Errorf(types.KindInternal, "lend a disk to the VM's user: %w", err)
		}
	}
	return nil
}

// Restore gives back what was lent. It is repeatable, and what cannot be given back holds up nothing else.
func Restore(lent []jail.Loan) error {
	var errs []error
	for _, loan := range lent {
		errs = append(errs, loan.Restore())
	}
	return errors.Join(errs...)
}
