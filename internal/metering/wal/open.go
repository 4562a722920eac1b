package wal

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
)

// Recovery is what Open found in the last segment, which a crash may have left at any point. Damage in earlier ones is
// told by who reads them.
type Recovery struct {
	Segments int
	// Last is the number of the last whole record.
	Last uint64
	// Torn is how many records seem to have been in the middle of being written, or damaged at the very end. Their
	// numbers, Last+1 and on, are never used again.
	Torn int
	// Repaired are the numbers of records that were made from parity.
	Repaired []uint64
	// Unreadable are files that have no header any more, or another one's. They are kept, and what can be made out
	// without one is read.
	Unreadable []string
}

// Open opens the log in a directory, and makes it where there is none. It opens whatever it finds; what can't be read
// is told. Nothing is written before Run, but for the reserve.
func Open(path string, opt Options) (*Log, error) {
	dir, err := openDir(path, false)
	if err != nil {
		return nil, fmt.Errorf("log of metering: %w", err)
	}
	l, err := OpenDir(dir, opt)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("log of metering in %s: %w", path, err), dir.Close())
	}
	l.close = dir.Close
	return l, nil
}

// OpenDir is Open in any kind of directory, which nobody else may use.
func OpenDir(dir Dir, opt Options) (*Log, error) {
	opt, err := opt.withDefaults()
	if err != nil {
		return nil, err
	}
	l := &Log{dir: dir, opt: opt, wake: make(chan struct{}, 1), thin: make(chan struct{}, 1), close: func() error { return nil }}
	if err := l.sweep(); err != nil {
		return nil, err
	}
	if l.segments, l.start.Unreadable, err = readSegments(dir); err != nil {
		return nil, err
	}
	if err := l.acks.open(dir); err != nil {
		return nil, err
	}
	if err := l.recover(); err != nil {
		l.acks.close()
		return nil, err
	}
	l.status.ReserveErr = haveReserve(dir, opt.ReserveBytes)
	if acked := l.acks.get(); acked > 0 && l.acks.again() == nil {
		l.truncate(acked) // what can't be removed is for the next Ack
	}
	return l, nil
}

// Close gives up the directory. Run has to have ended.
func (l *Log) Close() error {
	l.mu.Lock()
	l.closed, l.ended = true, true
	stuck := l.stuck
	l.notify()
	l.mu.Unlock()
	l.acks.close()
	if stuck {
		return errors.New("a write to the log has not ended, so it stays locked")
	}
	return l.close()
}

// sweep removes what the process before was in the middle of making.
func (l *Log) sweep() error {
	names, err := l.dir.List()
	if err != nil {
		return err
	}
	for _, name := range names {
		if strings.HasSuffix(name, passing) {
			l.dir.Remove(name) // a name that stays is in nobody's way for long
		}
	}
	return nil
}

// readSegments reads the headers of the segments, in the order of their numbers.
func readSegments(dir Dir) (segments []segment, unreadable []string, err error) {
	names, err := dir.List()
	if err != nil {
		return nil, nil, err
	}
	for _, name := range names {
		number := segmentNumber(name)
		if number == 0 || name != segmentName(number) {
			continue
		}
		s, err := readSegment(dir, number)
		if errors.Is(err, errHeader) || errors.Is(err, errForeign) {
			unreadable = append(unreadable, name)
		}
		if errors.Is(err, errHeader) {
			s, err = salvage(dir, number)
		}
		if errors.Is(err, errHeader) || errors.Is(err, errForeign) {
			continue
		}
		if errors.Is(err, os.ErrNotExist) {
			continue // removed meanwhile, by who writes the log
		}
		if err != nil {
			return nil, nil, fmt.Errorf("%s: %w", name, err)
		}
		segments = append(segments, s)
	}
	slices.SortFunc(segments, func(a, b segment) int {
		if a.number < b.number {
			return -1
		}
		return 1
	})
	slices.Sort(unreadable)
	return segments, unreadable, nil
}

func readSegment(dir Dir, number uint64) (segment, error) {
	f, err := dir.Open(segmentName(number))
	if err != nil {
		return segment{}, err
	}
	defer f.Close()
	h, err := readHeader(f, number)
	if err != nil {
		return segment{}, err
	}
	size, err := f.Size()
	return segment{header: h, size: size}, err
}
