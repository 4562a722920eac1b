package wal

import (
	"context"
	"errors"
	"iter"
	"time"
)

// Thinner makes the records of one segment coarser, from level-1 to level. It calls emit for what replaces them, in
// order; each replacement has the numbers First to Seq, and together they cover the segment's. What it leaves out is
// gone, so totals have to be in what it emits. An error leaves the segment as it is, for as long as the log is open.
// Bodies are good until the next one.
type Thinner func(level int, records iter.Seq[Entry], emit func(Record) error) error

// MaxLevel is how often a record may be made coarser.
const MaxLevel = 3

// Compact keeps the log below its quota until ctx ends: when it is above four fifths of it, the oldest segments that
// are not acknowledged are made coarser, each a level at a time, the oldest and finest first. Records that are only in
// the segment being written stay as they are.
func (l *Log) Compact(ctx context.Context) error {
	timer := time.NewTicker(l.opt.Retry)
	defer timer.Stop()
	for {
		for l.nearQuota() && ctx.Err() == nil {
			if !l.compactOne() {
				break
			}
		}
		select {
		case <-ctx.Done():
			return nil
		case <-l.thin:
		case <-timer.C:
		}
	}
}

func (l *Log) nearQuota() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.opt.QuotaBytes > 0 && l.opt.Thin != nil && l.bytes() > l.opt.QuotaBytes/5*4
}

// compactOne makes one segment coarser, and says whether another may be. An error of the disk may pass; one of the
// Thinner will not.
func (l *Log) compactOne() bool {
	l.mu.Lock()
	segments := l.segments
	l.mu.Unlock()
	best := -1
	for i := range max(newest(segments), 0) {
		s := segments[i]
		if !s.finals && s.level < MaxLevel && !s.bad && limit(segments, i) >= s.first && (best < 0 || s.level < segments[best].level) {
			best = i
		}
	}
	if best < 0 {
		return false
	}
	s, err := l.compact(segments, best)
	refused := errors.Is(err, errThinner)
	if refused {
		s = segments[best]
		s.bad = true
	}
	l.mu.Lock()
	l.status.ThinErr = err
	l.mu.Unlock()
	if err != nil && !refused {
		return false
	}
	l.replace(s)
	return true
}

// replace puts what is known of a segment in the place of what was. One that was acknowledged in the meantime goes.
func (l *Log) replace(s segment) {
	l.mu.Lock()
	there := false
	changed := append([]segment(nil), l.segments...)
	for i := range changed {
		if changed[i].number == s.number {
			changed[i], there = s, true
		}
	}
	l.segments = changed
	l.mu.Unlock()
	if !there {
		l.dir.Remove(s.name()) // or the next Open does
	}
}

// compact writes the coarser segment, and gives it the name of the one that it replaces. Who has that one open can
// read it to its end.
func (l *Log) compact(segments []segment, i int) (segment, error) {
	old := segments[i]
	now, err := readSegment(l.dir, old.number)
	switch {
	case errors.Is(err, errHeader), errors.Is(err, errForeign):
		return segment{}, errors.Join(errThinner, err)
	case err != nil:
		return segment{}, err
	case now.level > old.level: // an attempt before came so far
		return now, l.dir.Sync()
	}
	c := newCoarse(l.dir, segments, i)
	if err := l.opt.Thin(c.level, c.entries, c.emit); err != nil {
		return segment{}, errors.Join(errThinner, err)
	}
	if err := c.covers(); err != nil {
		return segment{}, errors.Join(errThinner, err)
	}
	copy(c.out, c.header.block())
	return segment{header: c.header, size: int64(len(c.out))}, writeFile(l.dir, c.name(), c.out)
}
