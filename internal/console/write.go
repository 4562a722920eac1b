package console

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// Write appends guest output. It never fails towards the guest: an error of the disk is counted and told to
// readers as lost bytes.
func (l *Log) Write(p []byte) (int, error) {
	l.writing.Lock()
	defer l.writing.Unlock()
	for rest := p; len(rest) > 0; {
		rest = rest[l.appendSome(rest):]
	}
	return len(p), nil
}

// Note appends a line of metald's own, such as that output was not observed for a while.
func (l *Log) Note(text string) {
	// Write cannot fail, and a note that the disk does not take is as lost as the output around it.
	_, _ = fmt.Fprintf(l, "\r\n[metald: %s]\r\n", text)
}

// appendSome appends as much of p as fits the newer segment and returns how much that was, lost or not.
func (l *Log) appendSome(p []byte) int {
	err := l.makeRoom()
	if err != nil {
		l.advance(0, len(p))
		return len(p)
	}
	p = p[:min(int64(len(p)), l.full-l.newer.size)]
	n, err := l.file.Write(p)
	if err != nil {
		l.file.Close()
		l.file = nil
	}
	l.advance(n, len(p)-n)
	return len(p)
}

// advance notes bytes that were written and bytes that were lost after them, and wakes readers.
func (l *Log) advance(written, lost int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.newer.size += int64(written)
	l.end += int64(written) + int64(lost)
	l.changed()
}

// changed wakes the readers that wait. It is called with mu held.
func (l *Log) changed() {
	if l.wake != nil {
		close(l.wake)
		l.wake = nil
	}
}

// makeRoom makes l.file a segment that takes at least one byte at the end of the log. Only the holder of
// l.writing changes the segments, so it may look at them without l.mu.
func (l *Log) makeRoom() error {
	if l.closed {
		return os.ErrClosed
	}
	room := l.newer.made && l.newer.end() == l.end && l.newer.size < l.full
	switch {
	case room && l.file != nil:
		return nil
	case room:
		return l.reopen()
	}
	return l.begin()
}

// reopen goes on with the segment that an earlier metald wrote.
func (l *Log) reopen() error {
	f, err := os.OpenFile(l.path(l.newer), os.O_WRONLY|os.O_APPEND|unix.O_NOFOLLOW, 0)
	if err != nil {
		return l.begin()
	}
	l.file = f
	return nil
}

// begin begins a segment at the end of the log. The oldest is removed to make room for it: at once, since a
// full disk may be why a new one is needed.
func (l *Log) begin() error {
	if l.file != nil {
		l.file.Close()
		l.file = nil
	}
	l.mu.Lock()
	drop := l.older
	if l.newer.size > 0 {
		l.older = l.newer
	} else {
		drop = l.newer // nothing in it: the older is worth more
	}
	l.newer = segment{start: l.end}
	l.mu.Unlock()
	if drop.made {
		_ = os.Remove(l.path(drop)) // what stays is removed by the next Open
	}
	f, err := l.create()
	if err != nil {
		return err
	}
	l.mu.Lock()
	l.newer.made = true
	l.mu.Unlock()
	l.file = f
	return nil
}

func (l *Log) create() (*os.File, error) {
	const flags = os.O_WRONLY | os.O_APPEND | os.O_CREATE | os.O_EXCL | unix.O_NOFOLLOW
	f, err := os.OpenFile(l.path(l.newer), flags, 0o600)
	if errors.Is(err, os.ErrNotExist) {
		if err := os.MkdirAll(l.dir, 0o700); err != nil {
			return nil, err
		}
		return os.OpenFile(l.path(l.newer), flags, 0o600)
	}
	return f, err
}
