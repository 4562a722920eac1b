package disk

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// Clone makes dst a private copy of the template src that shares its blocks where the filesystem can (reflink),
// and is a sparse copy elsewhere. dst must not exist; it is owned by uid and gid and readable by nobody else.
// The copy is durable when Clone returns. After an error nothing is left.
func Clone(src File, dst string, uid, gid int) (err error) {
	in, err := os.Open(src.Path)
	if err != nil {
		return fmt.Errorf("clone disk: %w", bare(err))
	}
	defer in.Close()
	out, err := os.OpenFile(dst, os.O_WRONLY|os.O_CREATE|os.O_EXCL|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return fmt.Errorf("clone disk: %w", err)
	}
	defer func() {
		err = errors.Join(err, out.Close())
		if err != nil {
			err = errors.Join(err, os.Remove(dst))
		}
	}()
	if err := unix.IoctlFileClone(int(out.Fd()), int(in.Fd())); err != nil {
		if err := copySparse(in, out); err != nil {
			return fmt.Errorf("copy disk: %w", err)
		}
	}
	if err := out.Chown(uid, gid); err != nil {
		return fmt.Errorf("clone disk: %w", err)
	}
	if err := out.Sync(); err != nil {
		return fmt.Errorf("clone disk: %w", err)
	}
	return SyncDir(filepath.Dir(dst))
}

// copySparse copies the runs of data and leaves holes holes.
func copySparse(in, out *os.File) error {
	info, err := in.Stat()
	if err != nil {
		return err
	}
	size := info.Size()
	if err := out.Truncate(size); err != nil {
		return err
	}
	for at := int64(0); at < size; {
		start, err := unix.Seek(int(in.Fd()), at, unix.SEEK_DATA)
		if errors.Is(err, unix.ENXIO) {
			return nil // the rest is a hole
		}
		if err != nil {
			return err
		}
		end, err := unix.Seek(int(in.Fd()), start, unix.SEEK_HOLE)
		if err != nil {
			return err
		}
		if err := copyRange(in, out, start, end); err != nil {
			return err
		}
		at = end
	}
	return nil
}

// copyRange copies [start, end) inside the kernel where it can, through this process where it cannot.
func copyRange(in, out *os.File, start, end int64) error {
	for start < end {
		from, to := start, start
		n, err := unix.CopyFileRange(int(in.Fd()), &from, int(out.Fd()), &to, int(min(end-start, 1<<30)), 0)
		if err != nil || n == 0 {
			return copyByHand(in, out, start, end)
		}
		start += int64(n)
	}
	return nil
}

func copyByHand(in, out *os.File, start, end int64) error {
	buf := make([]byte, 1<<20)
	for start < end {
		n, err := in.ReadAt(buf[:min(int64(len(buf)), end-start)], start)
		if n == 0 && err != nil {
			return err
		}
		if _, err := out.WriteAt(buf[:n], start); err != nil {
			return err
		}
		start += int64(n)
	}
	return nil
}

// SyncDir makes the entries of a directory durable.
func SyncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
