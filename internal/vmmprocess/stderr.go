package vmmprocess

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// MakeStderr makes path a FIFO for Command.Stderr. A VMM that says more than somebody reads loses the rest, and never
// waits: so it can neither fill a disk nor be held up where metald is away. The kernel keeps the first 64 KiB for
// the next reader, for as long as the VMM lives.
func MakeStderr(path string) error {
	if err := unix.Mkfifo(path, 0o600); err != nil {
		return &os.PathError{Op: "mkfifo", Path: path, Err: err}
	}
	return nil
}

// OpenStderr opens a FIFO of MakeStderr for reading. The directory is the VMM's own, so nothing is believed of it:
// no link is followed, nothing is waited for, and what is no FIFO is an error.
func OpenStderr(path string) (*os.File, error) {
	file, err := os.OpenFile(path, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	info, err := file.Stat()
	if err == nil && info.Mode().Type() != os.ModeNamedPipe {
		err = errors.New("not a FIFO")
	}
	if err != nil {
		file.Close()
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return file, nil
}
