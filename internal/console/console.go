// Package console keeps what guests write to their consoles: a bounded log on disk per VM, one goroutine that
// drains all of them, and readers that follow without ever slowing a guest.
package console

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync"
)

// Log is the console of one VM on disk: the newest bytes, up to a bound. It is safe for concurrent use.
//
// On disk it is at most two segments of capacity/2, each a file named by the offset of its first byte. When the
// newer is full a third is begun, and the oldest removed. Bytes that the disk did not take leave a hole in the
// offsets: the next byte that it takes begins a new segment.
type Log struct {
	dir  string
	full int64 // size at which a segment is full

	writing sync.Mutex
	file    *os.File // the newer segment, open for appending; nil where none is

	mu     sync.Mutex
	older  segment
	newer  segment
	end    int64         // offset after the last byte that the guest wrote
	wake   chan struct{} // closed by the next change; made by the first reader that waits
	closed bool
}

// Open returns the log in dir, going on where an earlier metald stopped. Nothing is made on disk before the
// first Write. capacity is in bytes, at least 2; at least capacity/2 of the newest output is kept. Files in dir
// that are no segments are left alone.
func Open(dir string, capacity int64) (*Log, error) {
	if capacity < 2 {
		return nil, fmt.Errorf("console log %s: a capacity of %d bytes is too small", dir, capacity)
	}
	l := &Log{dir: dir, full: capacity / 2}
	found, err := findSegments(dir)
	if err != nil {
		return nil, fmt.Errorf("console log: %w", err)
	}
	for _, s := range found {
		if l.older.made {
			// A crash between the making of a segment and the removal of the oldest.
			if err := os.Remove(l.path(l.older)); err != nil {
				return nil, fmt.Errorf("console log: %w", err)
			}
		}
		l.older, l.newer = l.newer, s
	}
	l.end = l.newer.end()
	return l, nil
}

// Anew returns a log in dir, where Open does not go on. What an earlier metald left there is not read, and what
// the disk does not take now is lost, as in every log.
func Anew(dir string, capacity int64) *Log { return &Log{dir: dir, full: max(capacity, 2) / 2} }

func (l *Log) path(s segment) string { return filepath.Join(l.dir, s.name()) }

// Tail returns up to n of the newest bytes. Bytes that the disk did not take are left out.
func (l *Log) Tail(n int64) ([]byte, error) {
	var tail []byte
	l.mu.Lock()
	end := l.end // a guest that goes on writing is not followed
	l.mu.Unlock()
	r := l.Reader(max(n, 0))
	for r.next < end {
		c, err := r.Next(context.Background(), false)
		if err == io.EOF {
			return tail, nil
		}
		if err != nil {
			return nil, err
		}
		tail = append(tail, c.Bytes...)
		if over := int64(len(tail)) - n; over > 0 { // written meanwhile
			tail = tail[over:]
		}
	}
	return tail, nil
}

// Close ends every follower with io.EOF, once it has read what there is. What is written after it is dropped.
func (l *Log) Close() error {
	l.writing.Lock()
	defer l.writing.Unlock()
	l.mu.Lock()
	closed, hole := l.closed, l.end > l.newer.end()
	l.closed = true
	l.changed()
	l.mu.Unlock()
	if closed {
		return nil
	}
	var err error
	if hole {
		// An empty segment tells the next metald that there was more.
		err = l.begin()
	}
	if l.file != nil {
		err = errors.Join(err, l.file.Close())
		l.file = nil
	}
	return err
}
