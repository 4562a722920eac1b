package disk

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// Clone makes dst a private copy of the template src that shares its blocks where the filesystem can (reflink),
// and is a sparse copy elsewhere. dst must not exist; it is owned by uid and gid and readable by nobody else.
// The copy is durable when Clone returns. After an error nothing is left.
//
// Errors: ErrChanged where src is not what Resolve found or was written to meanwhile; ErrUnreadable; ENOSPC or
// EDQUOT where there is no room; ctx's where it ended first.
func Clone(ctx context.Context, src File, dst string, uid, gid int) (err error) {
	in, err := src.Open()
	if err != nil {
		return fmt.Errorf("copy disk: %w", err)
	}
	defer in.Close()
	out, err := os.OpenFile(dst, os.O_WRONLY|os.O_CREATE|os.O_EXCL|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return fmt.Errorf("copy disk: make the copy: %w", bare(err))
	}
	defer func() {
		err = errors.Join(err, out.Close())
		if err != nil {
			err = errors.Join(err, os.Remove(dst))
		}
	}()
	if err := Fill(ctx, in, out); err != nil {
		return fmt.Errorf("copy disk: %w", bare(err))
	}
	if err := out.Chown(uid, gid); err != nil {
		return fmt.Errorf("copy disk: give it to user %d: %w", uid, bare(err))
	}
	if err := out.Sync(); err != nil {
		return fmt.Errorf("copy disk: %w", bare(err))
	}
	if err := SyncDir(filepath.Dir(dst)); err != nil {
		return fmt.Errorf("copy disk: %w", bare(err))
	}
	return nil
}

// Fill makes the empty file out a copy of in, of one moment of it: ErrChanged where in was written to meanwhile. It
// shares the blocks where the filesystem can (reflink), and leaves holes holes elsewhere. It makes nothing durable.
func Fill(ctx context.Context, in, out *os.File) error {
	var before, after unix.Stat_t
	if err := unix.Fstat(int(in.Fd()), &before); err != nil {
		return err
	}
	err := unix.IoctlFileClone(int(out.Fd()), int(in.Fd()))
	if err != nil {
		err = copySparse(ctx, in, out, before.Size)
	}
	if err := unix.Fstat(int(in.Fd()), &after); err != nil {
		return err
	}
	if before.Size != after.Size || before.Mtim != after.Mtim {
		return ErrChanged
	}
	return err
}

// bare takes the path out of an error: it is metald's own, which a client has no use for.
func bare(err error) error {
	var pe *os.PathError
	if errors.As(err, &pe) {
		return pe.Err
	}
	return err
}

// SyncDir makes the entries of a directory durable.
func SyncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
