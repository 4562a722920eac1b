package wal

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
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
	// Unreadable are files that have no header any more. They are kept.
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
	l.status.Err = makeReserve(dir, opt.ReserveBytes)
	return l, nil
}

// Close gives up the directory. Run has to have ended.
func (l *Log) Close() error {
	l.mu.Lock()
	l.closed, l.ended = true, true
	l.notify()
	l.mu.Unlock()
	l.acks.close()
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
		base, ok := strings.CutSuffix(name, suffix)
		number, err := strconv.ParseUint(base, 16, 64)
		if !ok || err != nil || name != segmentName(number) {
			continue
		}
		s, err := readSegment(dir, name)
		if errors.Is(err, errHeader) || err == nil && s.number != number {
			unreadable = append(unreadable, name)
			continue
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

func readSegment(dir Dir, name string) (segment, error) {
	f, err := dir.Open(name)
	if err != nil {
		return segment{}, err
	}
	defer f.Close()
	h, err := readHeader(f)
	if err != nil {
		return segment{}, err
	}
	size, err := f.Size()
	return segment{header: h, size: size}, err
}

// tail is the segment that was the last one before Open.
type tail struct {
	header
	group parity
	size  int64
}

// recover finds where the log goes on.
func (l *Log) recover() error {
	l.start.Segments = len(l.segments)
	last, torn := l.acks.get(), 0
	if n := len(l.segments); n > 0 {
		s := l.segments[n-1]
		data, err := readAll(l.dir, s.name())
		if err != nil {
			return err
		}
		all := scan(data, s.salt)
		last, l.head = max(last, s.first-1, s.last), s.prev
		if k := len(all.frames); k > 0 {
			last, l.head = max(last, all.frames[k-1].seq()), all.frames[k-1].hash()
		}
		if s.level > 0 {
			l.head = s.sealed
		}
		if all.tail {
			torn = all.marks
		}
		l.start.Repaired = all.repaired
	}
	l.start.Last, l.start.Torn = last, torn
	l.durable, l.finals, l.next = last, last, last+uint64(torn)+1
	return nil
}

func (l *Log) newWriter() *writer {
	w := &writer{log: l, head: l.head, number: 1, finals: l.durable}
	if n := len(l.segments); n > 0 {
		w.old = &tail{header: l.segments[n-1].header}
	}
	names, _ := l.dir.List() // unreadable ones have numbers, too
	for _, name := range names {
		if number, err := strconv.ParseUint(strings.TrimSuffix(name, suffix), 16, 64); err == nil && strings.HasSuffix(name, suffix) {
			w.number = max(w.number, number+1)
		}
	}
	return w
}

// close cuts off what was never whole, after parity for what has none. Its successor says which numbers were given up.
// It returns the size.
func (t *tail) close(dir Dir) int64 {
	data, err := readAll(dir, t.name())
	if err != nil {
		return t.size
	}
	t.size = int64(len(data))
	f, err := dir.Open(t.name())
	if err != nil {
		return t.size
	}
	defer f.Close()
	all := scan(data, t.salt)
	if all.end == len(data) || t.level > 0 {
		return t.size
	}
	for _, fr := range all.frames {
		if t.group.breaks(fr) {
			t.group.reset()
		}
		if t.group.add(fr) {
			t.group.reset()
		}
	}
	o := output{header: t.header, file: f, off: all.end, group: t.group}
	if o.write(o.group.appendTo(nil, t.salt)) == nil && f.Truncate(int64(o.off)) == nil {
		f.Sync() // or a later Open cuts again
		return int64(o.off)
	}
	return t.size
}

// readAll reads a file. Blocks that the disk does not give are zeros, which no frame is.
func readAll(dir Dir, name string) ([]byte, error) {
	f, err := dir.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	size, err := f.Size()
	if err != nil {
		return nil, err
	}
	data := make([]byte, size)
	if n, _ := f.ReadAt(data, 0); n == len(data) {
		return data, nil
	}
	const block = 4096
	for at := 0; at < len(data); at += block {
		b := data[at:min(at+block, len(data))]
		if n, _ := f.ReadAt(b, int64(at)); n < len(b) {
			clear(b)
		}
	}
	return data, nil
}
