package wal

import (
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
)

const (
	suffix      = ".wal"
	passing     = ".tmp" // of files that mean nothing yet
	reserveName = "reserve"
	fillStep    = 1 << 20
)

// spare is the next segment. It is written full of zeros, a piece with each commit, because a write to an extent that
// was only allocated costs the file system a transaction at each sync.
type spare struct {
	name   string
	file   File
	filled int
}

// prepare makes a spare segment, a piece at a time, from when half of the active one is used. If it can't, the error
// comes up again when the segment is needed.
func (w *writer) prepare() {
	if w.active == nil || w.active.off < w.active.size/2 {
		return
	}
	if w.spare.file == nil && w.makeSpare() != nil {
		return
	}
	if w.fillSpare(w.spare.filled+fillStep) != nil {
		w.dropSpare()
	}
}

// takeSpare returns the spare segment, which is whole.
func (w *writer) takeSpare() (name string, file File, err error) {
	if w.spare.file == nil {
		if err := w.makeSpare(); err != nil {
			return "", nil, err
		}
	}
	if err := w.fillSpare(w.log.opt.SegmentBytes); err != nil {
		w.dropSpare()
		return "", nil, err
	}
	name, file = w.spare.name, w.spare.file
	w.spare = spare{}
	return name, file, nil
}

func (w *writer) makeSpare() error {
	w.temps++
	name := fmt.Sprintf("%d%s", w.temps, passing)
	file, err := w.log.dir.Create(name)
	if err != nil {
		return err
	}
	w.spare = spare{name: name, file: file}
	if err := file.Allocate(int64(w.log.opt.SegmentBytes)); err != nil {
		w.dropSpare()
		return err
	}
	return nil
}

func (w *writer) fillSpare(to int) error {
	to = min(to, w.log.opt.SegmentBytes)
	err := zero(w.spare.file, w.spare.filled, to)
	w.spare.filled = to
	return err
}

func (w *writer) dropSpare() {
	if w.spare.file == nil {
		return
	}
	w.spare.file.Close()
	w.log.dir.Remove(w.spare.name) // or the next Open does
	w.spare = spare{}
}

// zero writes zeros.
func zero(f File, from, to int) error {
	if from >= to {
		return nil
	}
	zeros := make([]byte, min(to-from, fillStep))
	for ; from < to; from += len(zeros) {
		if err := writeAll(f, zeros[:min(to-from, len(zeros))], int64(from)); err != nil {
			return err
		}
	}
	return nil
}

// newSalt draws a salt; a mark of zero would be found in any unwritten place.
func newSalt() salt {
	for {
		var b [8]byte
		rand.Read(b[:])
		if s := salt(binary.LittleEndian.Uint64(b[:])); s.mark() != 0 {
			return s
		}
	}
}

// haveReserve puts room aside for final records, unless there is.
func haveReserve(dir Dir, size int) error {
	f, err := dir.Open(reserveName)
	if err == nil {
		have, err := f.Size()
		if f.Close(); err == nil && have == int64(size) {
			return nil
		}
	} else if !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return makeReserve(dir, size)
}

// makeReserve puts room aside, in the place of what was.
func makeReserve(dir Dir, size int) error {
	const name = reserveName + passing
	dir.Remove(name)
	f, err := dir.Create(name)
	if err != nil {
		return err
	}
	err = f.Allocate(int64(size))
	if err == nil {
		err = errors.Join(zero(f, 0, size), f.Sync())
	}
	f.Close()
	if err != nil {
		dir.Remove(name)
		return err
	}
	return errors.Join(dir.Rename(name, reserveName), dir.Sync())
}
