package wal

import (
	"errors"
	"os"
)

// source is where a Reader looks: which segments there are, and the last number that may be read.
type source interface {
	look() (segments []segment, durable uint64, changed <-chan struct{}, ended bool)
	open(name string) (File, error)
}

// liveSource reads what the log that writes has made durable.
type liveSource struct{ *Log }

func (s liveSource) look() ([]segment, uint64, <-chan struct{}, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.segments, s.durable, s.change(), s.ended
}

func (s liveSource) open(name string) (File, error) { return s.dir.Open(name) }

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
	for i, g := range segments {
		s.last = max(s.last, g.last, g.first-1)
		if !g.finals && i != newest(segments) {
			continue
		}
		all, err := scanSegment(dir, g.header)
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			return nil, nil, err
		}
		s.last = max(s.last, all.last())
	}
	return s, unreadable, nil
}

// begin is the first record that there should be, and the hash of the one before.
func (s *stillSource) begin() (first uint64, prev Hash) {
	for _, g := range s.segments {
		if first == 0 || g.first < first {
			first, prev = g.first, g.prev
		}
	}
	return max(first, 1), prev
}

func (s *stillSource) look() ([]segment, uint64, <-chan struct{}, bool) {
	return s.segments, s.last, nil, true
}

func (s *stillSource) open(name string) (File, error) { return s.dir.Open(name) }

// scanSegment finds the frames of a segment.
func scanSegment(dir Dir, h header) (found, error) {
	f, err := dir.Open(h.name())
	if err != nil {
		return found{}, err
	}
	defer f.Close()
	data, err := readAll(f)
	if err != nil {
		return found{}, err
	}
	return scan(data, h.salt), nil
}

// readAll reads a file. Blocks that the disk does not give are zeros, which no frame is.
func readAll(f File) ([]byte, error) {
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

// newest is which segment is the last of those that hold all records, or below zero.
func newest(segments []segment) int {
	for i := len(segments) - 1; i >= 0; i-- {
		if !segments[i].finals {
			return i
		}
	}
	return -1
}

// limit is the last number that segment i may be asked for: those that come after it supersede it from their first
// records on. Segments of final records do neither supersede nor are superseded.
func limit(segments []segment, i int) uint64 {
	last := ^uint64(0)
	for _, s := range segments[i+1:] {
		if !s.finals {
			last = min(last, s.first-1)
		}
	}
	return last
}
