package wal

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
)

// Loss is records that can't be read any more.
type Loss struct {
	First, Last uint64
	// Segment is where they should have been, or the next one.
	Segment uint64
	// Never says that the log was closed without them: they were being written when their host or process ended, and
	// nobody was told that they were durable.
	Never bool
}

func (l Loss) String() string {
	why := "damaged or removed"
	if l.Never {
		why = "never durable"
	}
	return fmt.Sprintf("records %d to %d, segment %d: %s", l.First, l.Last, l.Segment, why)
}

// Entry is what a Reader finds: a record, or that records are lost.
type Entry struct {
	Record
	// Known says that the record is below where the reader was asked to begin. It comes for those that are coded
	// against it.
	Known bool
	// Repaired says that the record was damaged and was made again from parity.
	Repaired bool
	Lost     *Loss
	Hash     Hash // of the record
	Prev     Hash // of the one before
	// Follows says that the record before, in the chain, is the one that was read before.
	Follows bool
}

// source is where a Reader looks: which segments there are, and the last number that may be read.
type source interface {
	look() (segments []segment, durable uint64, changed <-chan struct{}, ended bool)
	open(name string) (File, error)
	readAll(name string) ([]byte, error)
}

// Reader reads durable records in the order of their numbers, and waits for more. It is for one goroutine.
type Reader struct {
	src     source
	after   uint64 // what comes up to here is known
	pos     uint64 // the last number that was read, or is known to be lost
	last    Hash   // of the last record that was read
	linked  bool   // last is known
	loaded  bool   // a segment is in frames
	number  uint64 // of the segment
	level   int
	sealed  Hash
	salt    salt
	file    File
	off     int64
	frames  []frame // of a segment that is not read frame by frame
	fixed   map[uint64]bool
	broken  bool // the file can't be read frame by frame any more
	buf     []byte
	pending *Entry // after a loss
}

// NewReader returns a reader that begins with the first record after the number. Records before it in the same segment
// are given, too, marked as known.
func (l *Log) NewReader(after uint64) *Reader { return newReader(liveSource{l}, after) }

func newReader(src source, after uint64) *Reader {
	r := &Reader{src: src, after: after}
	segments, _, _, _ := src.look()
	for i := range segments {
		if segments[i].first <= after+1 && (limit(segments, i) > after || i == len(segments)-1) {
			r.enter(segments[i])
		}
	}
	if !r.loaded {
		r.pos = after
	}
	return r
}

// Close lets go of the segment.
func (r *Reader) Close() {
	if r.file != nil {
		r.file.Close()
		r.file = nil
	}
}

// Next returns what comes next. Its body is good until the call after. It waits until there is something, and returns
// io.EOF when the log has ended. An error of ctx is returned as it is.
func (r *Reader) Next(ctx context.Context) (Entry, error) {
	if r.pending != nil {
		e := *r.pending
		r.pending = nil
		return e, nil
	}
	for {
		segments, durable, changed, ended := r.src.look()
		e, ok, err := r.step(segments, durable)
		if ok || err != nil {
			return e, err
		}
		if ended {
			return Entry{}, io.EOF
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return Entry{}, ctx.Err()
		}
	}
}

// step finds the next record among the segments, if it is there.
func (r *Reader) step(segments []segment, durable uint64) (Entry, bool, error) {
	for r.pos < durable {
		i := r.index(segments)
		if i >= 0 {
			if f := r.frame(min(durable, limit(segments, i))); f != nil {
				e, ok := r.deliver(f)
				return e, ok, nil
			}
		}
		next := r.after1(segments)
		if next < 0 {
			return r.missing(durable), true, nil
		}
		if r.sealed != (Hash{}) {
			r.last, r.linked = r.sealed, true
		}
		r.enter(segments[next])
	}
	return Entry{}, false, nil
}

// index is which of the segments the reader is in; below zero if it is removed, or none.
func (r *Reader) index(segments []segment) int {
	for i := range segments {
		if r.loaded && segments[i].number == r.number {
			return i
		}
	}
	return -1
}

// after1 is the next segment that has something to give.
func (r *Reader) after1(segments []segment) int {
	for i := range segments {
		if (!r.loaded || segments[i].number > r.number) && limit(segments, i) > r.pos {
			return i
		}
	}
	return -1
}

func (r *Reader) enter(s segment) {
	r.Close()
	r.loaded, r.number, r.level, r.salt, r.off = true, s.number, s.level, s.salt, firstFrame
	r.frames, r.fixed, r.broken, r.sealed = nil, nil, false, s.sealed
	if r.pos == 0 {
		r.pos, r.last, r.linked = s.first-1, s.prev, true
		if r.pos > r.after {
			r.pos, r.linked = r.after, false
		}
	}
	file, err := r.src.open(s.name())
	if err != nil {
		r.broken = true
		return
	}
	r.file = file
	if h, err := readHeader(file); err == nil && h.number == s.number { // it may have been made coarser since
		r.level, r.salt, r.sealed = h.level, h.salt, h.sealed
	}
}

// frame returns the next frame of the segment that has something after pos, up to the number last, or nil.
func (r *Reader) frame(last uint64) frame {
	for !r.broken && r.file != nil {
		f := r.read()
		if f == nil {
			r.load()
			break
		}
		if f.parity() {
			r.off += int64(frameSize(f.bodyLen()))
			continue
		}
		if f.seq() > last {
			return nil
		}
		if f.first() > r.pos+1 && r.level == 0 {
			r.load() // some may have been repaired
			break
		}
		r.off += int64(frameSize(f.bodyLen()))
		if f.seq() > r.pos {
			return f
		}
	}
	for len(r.frames) > 0 && r.frames[0].seq() <= last {
		f := r.frames[0]
		r.frames = r.frames[1:]
		if f.seq() > r.pos {
			return f
		}
	}
	return nil
}

// load reads the whole segment, where reading frame by frame came to something that is no frame, and goes on with what
// is behind it. A later call begins where this one ended.
func (r *Reader) load() {
	data, err := r.src.readAll(segmentName(r.number))
	if err != nil || int64(len(data)) <= r.off {
		return
	}
	all := scan(data, r.salt)
	r.fixed = map[uint64]bool{}
	for _, seq := range all.repaired {
		r.fixed[seq] = true
	}
	for len(all.frames) > 0 && all.frames[0].seq() <= r.pos {
		all.frames = all.frames[1:]
	}
	r.frames = all.frames
	r.off = max(r.off, int64(all.end))
}

// read reads the frame at off, if there is one.
func (r *Reader) read() frame {
	const ahead = 64 << 10
	if cap(r.buf) < ahead {
		r.buf = make([]byte, ahead)
	}
	for {
		b := r.buf[:cap(r.buf)]
		n, err := r.file.ReadAt(b, r.off)
		if err != nil && !errors.Is(err, io.EOF) {
			return nil
		}
		b = b[:n]
		if f := r.salt.parseFrame(b); f != nil || n < frameHeader {
			return f
		}
		need := frameHeader + frame(b).bodyLen()
		if need <= cap(r.buf) || need > 1<<28 {
			return nil
		}
		if size, err := r.file.Size(); err != nil || r.off+int64(need) > size {
			return nil
		}
		r.buf = make([]byte, need)
	}
}

// deliver makes an entry of a frame, behind one of what is missing before it.
func (r *Reader) deliver(f frame) (Entry, bool) {
	e := Entry{Record: f.record(r.level), Known: f.seq() <= r.after, Repaired: r.fixed[f.seq()], Hash: f.hash(), Prev: f.prev(), Follows: r.linked && f.prev() == r.last}
	var loss *Loss
	if f.first() > r.pos+1 {
		loss = &Loss{First: r.pos + 1, Last: f.first() - 1, Segment: r.number, Never: r.linked && f.prev() == r.last}
	}
	r.pos, r.last, r.linked = f.seq(), e.Hash, true
	if loss == nil {
		return e, true
	}
	r.pending = &e
	return Entry{Lost: loss}, true
}

// missing says that nothing has what is durable.
func (r *Reader) missing(durable uint64) Entry {
	loss := &Loss{First: r.pos + 1, Last: durable, Segment: r.number}
	r.pos, r.linked = durable, false
	return Entry{Lost: loss}
}

// liveSource reads what the log that writes has made durable.
type liveSource struct{ *Log }

func (s liveSource) look() ([]segment, uint64, <-chan struct{}, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.segments, s.durable, s.change(), s.ended
}

func (s liveSource) open(name string) (File, error)      { return s.dir.Open(name) }
func (s liveSource) readAll(name string) ([]byte, error) { return readAll(s.dir, name) }

// stillSource reads a log that nobody writes, or what of it is there by now.
type stillSource struct {
	dir      Dir
	segments []segment
	last     uint64
}

func newStillSource(dir Dir) (*stillSource, []string, error) {
	segments, unreadable, err := readSegments(dir)
	if err != nil {
		return nil, nil, err
	}
	s := &stillSource{dir: dir, segments: segments}
	for _, g := range segments {
		s.last = max(s.last, g.last, g.first-1)
	}
	if n := len(segments); n > 0 {
		data, err := s.readAll(segments[n-1].name())
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			return nil, nil, err
		}
		if all := scan(data, segments[n-1].salt); len(all.frames) > 0 {
			s.last = max(s.last, all.frames[len(all.frames)-1].seq())
		}
	}
	return s, unreadable, nil
}

func (s *stillSource) look() ([]segment, uint64, <-chan struct{}, bool) {
	return s.segments, s.last, nil, true
}

func (s *stillSource) open(name string) (File, error)      { return s.dir.Open(name) }
func (s *stillSource) readAll(name string) ([]byte, error) { return readAll(s.dir, name) }
