package console

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"

	"golang.org/x/sys/unix"
)

// Chunk is a run of console bytes. Offset counts from the first byte the VM ever wrote; Lost bytes before it
// were dropped because the reader was too slow or the log is bounded, or because the disk did not take them.
// Bytes is empty where the newest bytes are lost.
type Chunk struct {
	Offset int64
	Lost   int64
	Bytes  []byte
}

// maxChunk is the most bytes in a Chunk.
const maxChunk = 64 << 10

// Reader reads a Log from some point on. One goroutine uses it at a time; it needs no closing.
type Reader struct {
	l    *Log
	next int64 // offset of the byte to read next
}

// Reader starts tail bytes before the end (tail < 0: at the oldest byte kept). Where fewer are kept the first
// chunk says how many of them are lost.
func (l *Log) Reader(tail int64) *Reader {
	l.mu.Lock()
	defer l.mu.Unlock()
	if tail >= 0 {
		return &Reader{l: l, next: max(l.end-tail, 0)}
	}
	for _, s := range []segment{l.older, l.newer} {
		if s.size > 0 {
			return &Reader{l: l, next: s.start}
		}
	}
	return &Reader{l: l, next: l.end}
}

// Next returns the next chunk. At the end it returns io.EOF, or, with follow, waits for more until ctx ends or
// the log is closed. An error of ctx is returned as it is. A reader that is slow loses bytes, and is told; it
// never slows the guest.
func (r *Reader) Next(ctx context.Context, follow bool) (Chunk, error) {
	for {
		v := r.look(follow)
		switch {
		case v.readable > 0:
			c, err := r.read(v)
			if !errors.Is(err, fs.ErrNotExist) {
				return c, err
			}
			if r.look(false).seg.start == v.seg.start {
				return r.advance(v.seg.end(), nil), nil // somebody else removed it
			}
			continue // the segment was dropped meanwhile, because the log went on
		case v.from > r.next:
			return r.advance(v.from, nil), nil
		case v.wake == nil:
			return Chunk{}, io.EOF
		}
		select {
		case <-v.wake:
		case <-ctx.Done():
			return Chunk{}, ctx.Err()
		}
	}
}

// view is what a reader has before it: readable bytes at from in seg, or a hole up to from, or nothing yet and
// a channel to wait on, or the end.
type view struct {
	seg      segment
	from     int64
	readable int64
	wake     <-chan struct{}
}

func (r *Reader) look(follow bool) view {
	l := r.l
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, s := range []segment{l.older, l.newer} {
		if r.next < s.end() && s.size > 0 {
			from := max(r.next, s.start)
			return view{seg: s, from: from, readable: min(s.end()-from, maxChunk)}
		}
	}
	v := view{from: max(r.next, l.end)}
	if v.from == r.next && follow && !l.closed {
		if l.wake == nil {
			l.wake = make(chan struct{})
		}
		v.wake = l.wake
	}
	return v
}

// read reads what look found. The bytes were written before look, and a segment only grows, so no lock is
// needed; bytes of a file that somebody cut are lost.
func (r *Reader) read(v view) (Chunk, error) {
	f, err := os.OpenFile(r.l.path(v.seg), os.O_RDONLY|unix.O_NOFOLLOW, 0)
	if err != nil {
		return Chunk{}, fmt.Errorf("read the console log: %w", err)
	}
	defer f.Close()
	b := make([]byte, v.readable)
	n, err := f.ReadAt(b, v.from-v.seg.start)
	switch {
	case n > 0:
		return r.advance(v.from, b[:n]), nil
	case err == io.EOF:
		return r.advance(v.seg.end(), nil), nil
	}
	return Chunk{}, fmt.Errorf("read the console log: %w", err)
}

// advance makes a chunk of bytes at offset from; everything before it that was not read is lost.
func (r *Reader) advance(from int64, b []byte) Chunk {
	c := Chunk{Offset: from, Lost: from - r.next, Bytes: b}
	r.next = from + int64(len(b))
	return c
}
