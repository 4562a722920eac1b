package wal

import (
	"errors"
	"io"
)

// writeAll writes all of b.
func writeAll(f File, b []byte, at int64) error {
	n, err := f.WriteAt(b, at)
	if err == nil && n < len(b) {
		err = io.ErrShortWrite
	}
	return err
}

// writeFile makes a durable file of data, and puts it in the place of what has the name. Who has that one open can go
// on reading it.
func writeFile(dir Dir, name string, data []byte) error {
	temporary := name + passing
	dir.Remove(temporary) // of an attempt that failed
	f, err := dir.Create(temporary)
	if err != nil {
		return err
	}
	if err = writeAll(f, data, 0); err == nil {
		err = f.Sync()
	}
	f.Close()
	if err == nil {
		err = dir.Rename(temporary, name)
	}
	if err != nil {
		return errors.Join(err, dir.Remove(temporary))
	}
	return dir.Sync()
}
