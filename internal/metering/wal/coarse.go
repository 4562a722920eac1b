package wal

import (
	"context"
	"errors"
	"fmt"
)

// errThinner: trying again would come to the same.
var errThinner = errors.New("records can't be made coarser")

// coarse is a segment that is made of another one.
type coarse struct {
	header
	src  *stillSource
	then Hash // of the record before the first one of the next segment
	out  []byte
	prev Hash
	next uint64
}

// newCoarse begins a coarser one of segment i, up to where the next one begins.
func newCoarse(dir Dir, segments []segment, i int) *coarse {
	c := &coarse{header: segments[i].header, src: &stillSource{dir: dir, segments: segments[i : i+1 : i+1], last: limit(segments, i)}}
	for _, s := range segments {
		if s.finals { // it may have records that this one has not
			c.src.segments = append(c.src.segments, s)
		} else if s.first == c.src.last+1 {
			c.then = s.prev
		}
	}
	c.level, c.salt, c.last = c.level+1, newSalt(), c.src.last
	c.prev, c.next, c.out = c.header.prev, c.first, c.block()
	return c
}

// emit takes a record in the place of others.
func (c *coarse) emit(r Record) error {
	if r.First != c.next || r.Seq < r.First || r.Seq > c.last || r.Seq-r.First >= 1<<32-1 {
		return fmt.Errorf("make segment %d coarser: records %d to %d after %d", c.number, r.First, r.Seq, c.next-1)
	}
	var flags byte
	if r.Keyframe {
		flags |= flagKeyframe
	}
	if r.Final {
		flags |= flagFinal
	}
	start := len(c.out)
	c.out = appendFrame(c.out, r.Seq, uint32(r.Seq-r.First+1), flags, r.Type, r.Body)
	f, _ := nextFrame(c.out[start:])
	f.link(c.prev)
	f.seal(c.salt)
	c.prev, c.next = f.hash(), r.Seq+1
	return nil
}

// entries are what the segment has now.
func (c *coarse) entries(yield func(Entry) bool) {
	r := newReader(c.src, c.first-1)
	defer r.Close()
	for {
		e, err := r.Next(context.Background())
		if err != nil {
			return
		}
		if e.Lost != nil && e.Lost.Last == c.last && r.pending == nil {
			e.Lost.Never = c.sealed == c.then
		}
		if e.Lost == nil && c.level == 1 {
			c.sealed = e.Hash
		}
		if !yield(e) {
			return
		}
	}
}

// covers says which records would be gone.
func (c *coarse) covers() error {
	if c.next != c.last+1 {
		return fmt.Errorf("make segment %d coarser: records %d to %d are not covered", c.number, c.next, c.last)
	}
	return nil
}
