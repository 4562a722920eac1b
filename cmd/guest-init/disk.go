package main

import (
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/unkeyed/unkey/go/deploy/metald/internal/guest"
)

// A file is written round and round within fileRoom, so that a small root disk takes any number of bytes.
const (
	chunk    = 1 << 20
	fileRoom = 8 << 20
)

// write puts n bytes on path, each chunk synced, and says how many arrived.
func write(ctx context.Context, n int64, path string) {
	f, room, err := openForWriting(path)
	if err != nil {
		say(guest.Prefix + "write: " + err.Error())
		return
	}
	defer f.Close()
	var done int64
	for buf := pattern(); done < n && ctx.Err() == nil; {
		at := done % room
		size := min(n-done, room-at, chunk)
		if _, err = f.WriteAt(buf[:size], at); err == nil {
			err = f.Sync()
		}
		if err != nil {
			say(guest.Prefix + "write: " + err.Error())
			break
		}
		done += size
	}
	say(guest.Wrote(done, path))
}

// openForWriting opens a device, or makes a file, and says how many bytes there is room for.
func openForWriting(path string) (*os.File, int64, error) {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if errors.Is(err, os.ErrNotExist) {
		f, err = os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	}
	if err != nil {
		return nil, 0, err
	}
	info, err := f.Stat()
	if err != nil || info.Mode().IsRegular() {
		return f, fileRoom, err
	}
	size, err := f.Seek(0, io.SeekEnd)
	if err == nil && size == 0 {
		err = errors.New(path + ": not a disk")
	}
	return f, size, err
}

// pattern is a chunk that is not zeros: zeros can be stored for nothing.
func pattern() []byte {
	buf := make([]byte, chunk)
	for i := range buf {
		buf[i] = byte(i*7 + i>>8 + 1)
	}
	return buf
}

// touch tries to write to a directory or a block device and says what came of it. A device's first 512 bytes, which a
// file system leaves free, are written back as they were.
func touch(path string) {
	err := touchDevice(path)
	if info, statErr := os.Stat(path); statErr == nil && info.IsDir() {
		err = touchDirectory(path)
	}
	if err != nil {
		say(guest.TouchRefused(path, errnoName(err)))
		return
	}
	say(guest.TouchAccepted(path))
}

func touchDirectory(dir string) error {
	f, err := os.Create(filepath.Join(dir, ".metald.touch"))
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close(), os.Remove(f.Name()))
}

func touchDevice(path string) error {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	sector := make([]byte, 512)
	if _, err := f.ReadAt(sector, 0); err != nil {
		return err
	}
	if _, err := f.WriteAt(sector, 0); err != nil {
		return err
	}
	return f.Sync()
}

// errnoName is the symbol of the system's error ("EROFS"), or the error's text.
func errnoName(err error) string {
	var errno unix.Errno
	if errors.As(err, &errno) {
		return unix.ErrnoName(errno)
	}
	if err == nil {
		return "no error"
	}
	return err.Error()
}
