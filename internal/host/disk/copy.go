package disk

import (
	"context"
	"errors"
	"io"
	"os"

	"golang.org/x/sys/unix"
)

// copyStep is how many bytes are copied before ctx is looked at again.
const copyStep = 64 << 20

// copySparse copies the runs of data and leaves holes holes.
func copySparse(ctx context.Context, in, out *os.File, size int64) error {
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
		if err := copyRange(ctx, in, out, start, min(end, size)); err != nil {
			return err
		}
		at = end
	}
	return nil
}

// copyRange copies [start, end) inside the kernel where it can, through this process where it cannot.
func copyRange(ctx context.Context, in, out *os.File, start, end int64) error {
	for start < end {
		if err := ctx.Err(); err != nil {
			return err
		}
		step := min(end-start, copyStep)
		from, to := start, start
		n, err := unix.CopyFileRange(int(in.Fd()), &from, int(out.Fd()), &to, int(step), 0)
		if err != nil || n == 0 {
			n, err = copyByHand(in, out, start, step)
		}
		if err != nil {
			return err
		}
		start += int64(n)
	}
	return nil
}

// copyByHand copies n bytes at offset at. A file that has become shorter is io.ErrUnexpectedEOF.
func copyByHand(in, out *os.File, at, n int64) (int, error) {
	copied, err := io.Copy(io.NewOffsetWriter(out, at), io.NewSectionReader(in, at, n))
	if err == nil && copied < n {
		err = io.ErrUnexpectedEOF
	}
	return int(copied), err
}
