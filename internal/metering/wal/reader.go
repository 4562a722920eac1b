package wal

import (
	"context"
	"errors"
	"io"
	"slices"
)

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
	sealed  Hash   // of the record end, before it was made coarser
	end     uint64 // the last number of a segment that was made coarser
	salt    salt
	file    File
	off     int64
	frames  []frame // what is next in the segment, where it was not read frame by frame
	fixed   map[uint64]bool
	finals  map[uint64][]frame // of segments of final records, by their numbers
	buf     []byte
	pending *Entry // after a loss
}

// NewReader returns a reader that begins with the first record after the number. Records before it in the same segment
// are given, too, marked as known. Numbers that the caller has from an earlier life of the log, and that the log lost
// since, are not used again if the reader is made before the first Append.
func (l *Log) NewReader(after uint64) *Reader {
	l.mu.Lock()
	if l.fresh && after >= l.next {
		l.next = after + 1
	}
	l.mu.Unlock()
	return newReader(liveSource{l}, after)
}

func newReader(src source, after uint64) *Reader {
	r := &Reader{src: src, after: after, pos: after}
	segments, _, _, _ := src.look()
	for i := range segments {
		if !segments[i].finals && segments[i].first <= after+1 && (limit(segments, i) > after || i == newest(segments)) {
			r.enter(segments[i])
			r.pos, r.last, r.linked = segments[i].first-1, segments[i].prev, true
		}
	}
	return r
}

// begin makes the reader begin at a record.
func (r *Reader) begin(first uint64, prev Hash) {
	r.after, r.pos, r.last, r.linked = first-1, first-1, prev, true
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
				return r.deliver(f, segments), true, nil
			}
		}
		next := r.following(segments)
		if next < 0 {
			if f := r.beside(segments, durable); f != nil {
				return r.entry(f, 0), true, nil
			}
			return r.missing(durable), true, nil
		}
		if r.sealed != (Hash{}) {
			r.last, r.linked = r.sealed, r.pos == r.end
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

// following is the next segment that has something to give.
func (r *Reader) following(segments []segment) int {
	for i := range segments {
		if !segments[i].finals && (!r.loaded || segments[i].number > r.number) && limit(segments, i) > r.pos {
			return i
		}
	}
	return -1
}

func (r *Reader) enter(s segment) {
	r.Close()
	r.loaded, r.number, r.level, r.salt, r.off = true, s.number, s.level, s.salt, firstFrame
	r.frames, r.fixed, r.sealed, r.end = nil, nil, s.sealed, s.last
	file, err := r.src.open(s.name())
	if err != nil {
		return
	}
	r.file = file
	if h, err := readHeader(file, s.number); err == nil { // it may have been made coarser since
		r.level, r.salt, r.sealed, r.end = h.level, h.salt, h.sealed, h.last
	}
}

// frame returns the next frame of the segment that has something after pos, up to the number last, or nil.
func (r *Reader) frame(last uint64) frame {
	if last <= r.pos {
		return nil
	}
	for len(r.frames) == 0 && r.file != nil {
		f := r.read()
		switch {
		case f == nil, f.first() > r.pos+1 && !f.parity(): // some may have been repaired
			if !r.load() {
				return nil
			}
		case f.parity() || f.seq() <= r.pos:
			r.off += int64(frameSize(f.bodyLen()))
		case f.seq() > last:
			return nil
		default:
			r.off += int64(frameSize(f.bodyLen()))
			return f
		}
	}
	if len(r.frames) == 0 || r.frames[0].seq() > last {
		return nil
	}
	f := r.frames[0]
	r.frames = r.frames[1:]
	return f
}

// load finds all that is left of the segment, where reading frame by frame came to something else than the next one. A
// later call begins where this one ended. It says whether there is something.
func (r *Reader) load() bool {
	data, err := readAll(r.file)
	if err != nil || int64(len(data)) <= r.off {
		return false
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
	return len(r.frames) > 0
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

// deliver makes an entry of a frame, behind what is missing before it.
func (r *Reader) deliver(f frame, segments []segment) Entry {
	if f.first() <= r.pos+1 {
		return r.entry(f, r.level)
	}
	if final := r.beside(segments, f.first()-1); final != nil {
		r.frames = append([]frame{slices.Clone(f)}, r.frames...)
		return r.entry(final, 0)
	}
	return r.entry(f, r.level)
}

// entry is one of a frame, or of the loss before it.
func (r *Reader) entry(f frame, level int) Entry {
	e := Entry{Record: f.record(level), Known: f.seq() <= r.after, Repaired: r.fixed[f.seq()], Hash: f.hash(), Prev: f.prev(), Follows: r.linked && f.prev() == r.last}
	var loss *Loss
	if f.first() > r.pos+1 {
		loss = &Loss{First: r.pos + 1, Last: f.first() - 1, Segment: r.number, Never: e.Follows}
	}
	r.pos, r.last, r.linked = f.seq(), e.Hash, true
	if loss == nil {
		return e
	}
	r.pending = &e
	return Entry{Lost: loss}
}

// missing says that nothing has what is durable.
func (r *Reader) missing(durable uint64) Entry {
	loss := &Loss{First: r.pos + 1, Last: durable, Segment: r.number}
	r.pos, r.linked = durable, false
	return Entry{Lost: loss}
}
