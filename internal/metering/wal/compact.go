package wal

import (
	"context"
	"errors"
	"fmt"
	"iter"
)

// Thinner makes the records of one segment coarser, from level-1 to level. It calls emit for what replaces them, in
// order; each replacement has the numbers First to Seq, and together they cover the segment's. What it leaves out is
// gone, so totals have to be in what it emits. An error leaves the segment as it is. Bodies are good until the next one.
type Thinner func(level int, records iter.Seq[Entry], emit func(Record) error) error

// MaxLevel is how often a record may be made coarser.
const MaxLevel = 3

// Compact keeps the log below its quota until ctx ends: when it is above four fifths of it, the oldest segments that
// are not acknowledged are made coarser, each a level at a time, the oldest and finest first. Records that are only in
// the segment being written stay as they are.
func (l *Log) Compact(ctx context.Context) error {
	for {
		for l.overQuota() && ctx.Err() == nil {
			if !l.compactOne() {
				break
			}
		}
		select {
		case <-ctx.Done():
			return nil
		case <-l.thin:
		}
	}
}

func (l *Log) overQuota() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	over := l.opt.QuotaBytes > 0 && l.opt.Thin != nil && l.bytes() > l.opt.QuotaBytes/5*4
	l.status.OverQuota = l.opt.QuotaBytes > 0 && l.bytes() > l.opt.QuotaBytes
	return over
}

// compactOne makes one segment coarser, and says whether there was one.
func (l *Log) compactOne() bool {
	l.mu.Lock()
	segments := l.segments
	l.mu.Unlock()
	best := -1
	for i := 0; i+1 < len(segments); i++ { // not the last one
		s := segments[i]
		if s.level < MaxLevel && !s.reserve && !s.bad && limit(segments, i) >= s.first && (best < 0 || s.level < segments[best].level) {
			best = i
		}
	}
	if best < 0 {
		return false
	}
	s, err := l.compact(segments, best)
	if err != nil {
		s = segments[best]
		s.bad = true
	}
	l.replace(s, err)
	return true
}

// replace puts what is known of a segment in the place of what was.
func (l *Log) replace(s segment, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	changed := append([]segment(nil), l.segments...)
	for i := range changed {
		if changed[i].number == s.number {
			changed[i] = s
		}
	}
	l.segments = changed
	if err != nil {
		l.status.Err = err
	}
}

// compact writes the coarser segment, and gives it the name of the one that it replaces. Who has that one open can
// read it to its end.
func (l *Log) compact(segments []segment, i int) (segment, error) {
	old := segments[i]
	src := &stillSource{dir: l.dir, segments: segments[i : i+1], last: limit(segments, i)}
	h := old.header
	h.level, h.salt, h.last = old.level+1, newSalt(), src.last
	out := h.block()
	prev, group, next := h.prev, parity{}, h.first
	emit := func(r Record) error {
		if r.First != next || r.Seq < r.First || r.Seq > src.last {
			return fmt.Errorf("make segment %d coarser: records %d to %d after %d", old.number, r.First, r.Seq, next-1)
		}
		var flags byte
		if r.Keyframe {
			flags |= flagKeyframe
		}
		if r.Final {
			flags |= flagFinal
		}
		start := len(out)
		out = appendFrame(out, r.Seq, uint32(r.Seq-r.First+1), flags, r.Type, r.Body)
		f, _ := nextFrame(out[start:])
		f.link(prev)
		f.seal(h.salt)
		prev, next = f.hash(), r.Seq+1
		return nil
	}
	entries := func(yield func(Entry) bool) {
		r := newReader(src, h.first-1)
		defer r.Close()
		for {
			e, err := r.Next(context.Background())
			if err != nil || !yield(e) {
				return
			}
			if e.Lost == nil && old.level == 0 {
				h.sealed = e.Hash
			}
		}
	}
	if err := l.opt.Thin(h.level, entries, emit); err != nil {
		return segment{}, err
	}
	if next != src.last+1 {
		return segment{}, fmt.Errorf("make segment %d coarser: records %d to %d are not covered", old.number, next, src.last)
	}
	copy(out, h.block())
	out = group.appendTo(out, h.salt)
	return segment{header: h, size: int64(len(out))}, l.writeCoarse(h, out)
}

func (l *Log) writeCoarse(h header, out []byte) error {
	name := "coarse" + passing
	l.dir.Remove(name)
	f, err := l.dir.Create(name)
	if err != nil {
		return err
	}
	_, err = f.WriteAt(out, 0)
	if err == nil {
		err = f.Sync()
	}
	f.Close()
	if err == nil {
		err = l.dir.Rename(name, h.name())
	}
	if err != nil {
		return errors.Join(err, l.dir.Remove(name))
	}
	return l.dir.Sync()
}
