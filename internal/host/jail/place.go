package jail

import (
	"context"
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"github.com/unkeyed/unkey/go/deploy/metald/internal/host/disk"
)

// Kind says what a VMM does with a file.
type Kind uint8

const (
	// ReadOnly is read, and may be in any number of jails. Nothing about it changes but its count of links.
	ReadOnly Kind = iota
	// Writable is written: what the guest writes is in the source.
	Writable
)

// File is a file of the host to be put into a jail.
type File struct {
	Name   string // in the jail, from its root
	Source string // on the host: an absolute path with no symbolic link in it
	Kind   Kind
}

// Way is how a file came into a jail.
type Way string

const (
	// Link is a hard link to the source.
	Link Way = "hard link"
	// Copy is a file of the VMM's own, which shares the blocks of the source where the file system can.
	Copy Way = "copy"
	// Mount is the source, mounted on an empty file. Remove unmounts it.
	Mount Way = "bind mount"
)

// Placed is a file in a jail.
type Placed struct {
	Way Way
	// Loan says whose a Writable is. It is to be recorded, then given, and restored when the jail is gone; nil for a
	// ReadOnly.
	Loan *Loan
}

// Place puts a file into the jail. The name was not there: os.ErrExist. After an error nothing of it is left. The
// source stays whose it is.
//
// A ReadOnly is a hard link where the VMM's user may read the source and can do no more to it, and a copy otherwise. A
// Writable is a hard link, or a bind mount where the source is on another file system, and becomes the VMM's user's by
// Loan.Give.
//
// Errors: os.ErrNotExist where there is no source; unix.ELOOP for a link; disk.ErrChanged for one that was written to
// while it was copied; ENOSPC; ctx's where it ended before a copy was made.
func (j *Jail) Place(ctx context.Context, f File) (placed Placed, err error) {
	source, err := disk.Pin(f.Source)
	if err != nil {
		return Placed{}, fmt.Errorf("place %s in a jail: %w", f.Name, err)
	}
	defer source.Close()
	err = j.in("place", f.Name, func(dir int, base string) error {
		if f.Kind == Writable {
			placed, err = lend(source, dir, base, j.owner)
		} else {
			placed.Way, err = j.share(ctx, source, dir, base)
		}
		return err
	})
	if err != nil {
		return Placed{}, err
	}
	return placed, nil
}

// share puts a file that is not changed into a jail.
func (j *Jail) share(ctx context.Context, source *disk.Pinned, dir int, base string) (Way, error) {
	ok, err := j.owner.readsOnly(source)
	if err != nil {
		return "", err
	}
	if ok {
		if err := link(source, dir, base); !linksNot(err) {
			return Link, err
		}
	}
	return Copy, j.copy(ctx, source, dir, base)
}

// readsOnly tells whether the user may read the file, and neither write nor gain anything by it.
func (o Owner) readsOnly(f *disk.Pinned) (bool, error) {
	_, st, err := typeOf(f.Fd())
	if err != nil {
		return false, err
	}
	// An access control list says more than the mode.
	if n, err := unix.Getxattr(f.Name(), "system.posix_acl_access", nil); err == nil && n > 0 {
		return false, nil
	}
	switch {
	case st.Uid == o.UID: // who could make it writable
		return false, nil
	case st.Mode&(unix.S_ISUID|unix.S_ISGID) != 0:
		return false, nil
	case st.Gid == o.GID:
		return st.Mode&0o060 == 0o040, nil
	}
	return st.Mode&0o006 == 0o004, nil
}

// link makes a hard link to the file that is held, whatever is at its path.
func link(source *disk.Pinned, dir int, base string) error {
	return unix.Linkat(unix.AT_FDCWD, source.Name(), dir, base, unix.AT_SYMLINK_FOLLOW)
}

// linksNot tells that there can be no hard link: between file systems or mounts, to an immutable file, where the file
// system knows none, or where the file has as many as it can have.
func linksNot(err error) bool {
	for _, errno := range []unix.Errno{unix.EXDEV, unix.EPERM, unix.EOPNOTSUPP, unix.EMLINK} {
		if errors.Is(err, errno) {
			return true
		}
	}
	return false
}

// copy makes a file that the VMM's user may read.
func (j *Jail) copy(ctx context.Context, source *disk.Pinned, dir int, base string) (err error) {
	in, err := source.Reopen()
	if err != nil {
		return err
	}
	defer in.Close()
	fd, err := openAt(dir, base, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL, 0o400)
	if err != nil {
		return err
	}
	out := os.NewFile(uintptr(fd), base)
	defer func() {
		err = errors.Join(err, out.Close())
		if err != nil {
			err = errors.Join(err, unix.Unlinkat(dir, base, 0))
		}
	}()
	if err := disk.Fill(ctx, in, out); err != nil {
		return err
	}
	return j.owner.give(fd)
}
