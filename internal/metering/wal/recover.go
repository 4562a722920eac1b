package wal

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
)

// recover finds where the log goes on: with a number that no record ever had. What it finds is made durable first: the
// process before may have ended without that, and it is about to be told.
func (l *Log) recover() error {
	l.start.Segments = len(l.segments)
	l.durable, l.next = l.acks.get(), l.acks.get()+1
	main := newest(l.segments)
	for i := range l.segments {
		s := &l.segments[i]
		if i != main && !s.finals {
			continue
		}
		if err := l.recoverSegment(s, i == main); err != nil {
			return err
		}
	}
	l.start.Last = l.durable
	if l.start.Torn > 0 {
		l.next = max(l.next, l.durable+uint64(l.start.Torn)+1)
	}
	l.next = max(l.next, l.durable+1) + l.unknown()
	l.finals, l.fresh = l.durable, true
	if err := l.dir.Sync(); err != nil {
		l.status.Err = errors.Join(l.status.Err, err)
	}
	return nil
}

func (l *Log) recoverSegment(s *segment, main bool) error {
	f, err := l.dir.Open(s.name())
	if err != nil {
		return err
	}
	data, err := readAll(f)
	f.Close()
	if err != nil {
		return err
	}
	all := scan(data, s.salt)
	if err := l.settle(s, data, all); err != nil {
		l.status.Err = fmt.Errorf("make %s durable: %w", s.name(), err)
		s.unsettled = true
	}
	last, head := max(s.first-1, s.last, all.last()), s.prev
	if k := len(all.frames); k > 0 {
		head = all.frames[k-1].hash()
	}
	if s.level > 0 {
		head = s.sealed
	}
	if s.finals {
		s.through = all.last()
	}
	if main {
		l.start.Torn, l.start.Repaired = int(all.torn()), all.repaired
		l.next = max(l.next, last+all.torn()+1)
	}
	if last >= l.headAt {
		l.headAt, l.head = last, head
	}
	l.durable = max(l.durable, last)
	return nil
}

// settle makes durable what was read of a segment. Linux may hold pages that a sync could not write, and take them for
// clean: so they are written again before the sync. If that fails the segment is replaced by a copy.
func (l *Log) settle(s *segment, data []byte, all found) error {
	f, err := l.dir.Open(s.name())
	if err != nil {
		return err
	}
	for _, r := range all.whole {
		if err = writeAll(f, data[r.from:r.to], int64(r.from)); err != nil {
			break
		}
	}
	if err == nil {
		err = f.Sync()
	}
	f.Close()
	if err == nil {
		return nil
	}
	if e := writeFile(l.dir, s.name(), data); e != nil {
		return errors.Join(err, e)
	}
	return nil
}

// unknown is how many numbers may have been given to records in files that say nothing any more, and that came after
// all that could be read.
func (l *Log) unknown() uint64 {
	n, after := uint64(0), uint64(0)
	if i := newest(l.segments); i >= 0 {
		after = l.segments[i].number
	}
	for _, name := range l.start.Unreadable {
		if segmentNumber(name) > after {
			n += uint64(l.opt.SegmentBytes) / frameHeader
		}
	}
	return n
}

// segmentNumber is the number in a file's name, or zero.
func segmentNumber(name string) uint64 {
	base, ok := strings.CutSuffix(name, suffix)
	number, err := strconv.ParseUint(base, 16, 64)
	if !ok || err != nil {
		return 0
	}
	return number
}

func (l *Log) newWriter() *writer {
	w := &writer{log: l, head: l.head, number: 1, finals: l.durable}
	if i := newest(l.segments); i >= 0 && !l.segments[i].unsettled {
		w.old = &tail{header: l.segments[i].header, size: l.segments[i].size}
	}
	names, _ := l.dir.List() // unreadable ones have numbers, too
	for _, name := range names {
		w.number = max(w.number, segmentNumber(name)+1)
	}
	return w
}
