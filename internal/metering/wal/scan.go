package wal

import (
	"encoding/binary"
	"slices"
)

// found is what is in the bytes of a segment.
type found struct {
	frames   []frame // those of records, by number, what was repaired among them
	whole    []span  // where there are whole frames
	repaired []uint64
	// end is where the last whole frame ends, and tail whether anything but zeros comes after: then one frame at least
	// was being written, or is damaged.
	end   int
	tail  bool
	marks int // in the tail: how many frames seem to begin there
	damage
}

// span is a part of a segment's bytes.
type span struct{ from, to int }

// damage counts bytes before end that belong to no frame.
type damage struct{ regions, bytes int }

// scan finds the frames of a segment, whose first firstFrame bytes are its header. Where there is none it goes on at
// the next place where one is whole.
func scan(data []byte, s salt) found {
	var all found
	var parities []frame
	seen := map[uint64]frame{}
	for at := firstFrame; at+frameHeader <= len(data); {
		f := s.parseFrame(data[at:])
		if f == nil {
			at += skip(data[at:], s)
			continue
		}
		if gap := at - all.gapStart(); gap > 0 {
			all.regions, all.bytes = all.regions+1, all.bytes+gap
		}
		if f.parity() {
			parities = append(parities, f)
		} else if seen[f.seq()] == nil {
			seen[f.seq()] = f
		}
		start := at
		at += frameSize(f.bodyLen())
		all.end = min(at, len(data))
		all.add(span{start, all.end})
	}
	all.end = all.gapStart()
	all.lookAtTail(data, s)
	all.repairBy(parities, seen)
	all.frames = make([]frame, 0, len(seen))
	for _, f := range seen {
		all.frames = append(all.frames, f)
	}
	slices.SortFunc(all.frames, func(a, b frame) int {
		if a.seq() < b.seq() {
			return -1
		}
		return 1
	})
	return all
}

// add notes that there are whole frames.
func (d *found) add(s span) {
	if n := len(d.whole); n > 0 && d.whole[n-1].to == s.from {
		d.whole[n-1].to = s.to
		return
	}
	d.whole = append(d.whole, s)
}

// last is the highest number of a whole record, or zero.
func (d *found) last() uint64 {
	if len(d.frames) == 0 {
		return 0
	}
	return d.frames[len(d.frames)-1].seq()
}

// torn is how many numbers after the last whole record may have been given out.
func (d *found) torn() uint64 {
	if !d.tail {
		return 0
	}
	return uint64(d.marks)
}

// gapStart is where the frame after the last whole one should begin.
func (d *found) gapStart() int { return max(d.end, firstFrame) }

// skip is how far the next place is where a frame may begin, or the end of data.
func skip(data []byte, s salt) int {
	for at := align; at+4 <= len(data); at += align {
		if binary.LittleEndian.Uint32(data[at:]) == s.mark() {
			return at
		}
	}
	return len(data)
}

func (d *found) lookAtTail(data []byte, s salt) {
	if d.end >= len(data) {
		return
	}
	rest := data[d.end:]
	for at := 0; at+4 <= len(rest); at += align {
		if binary.LittleEndian.Uint32(rest[at:]) == s.mark() {
			d.marks++
		}
	}
	for _, b := range rest {
		if b != 0 {
			d.tail = true
			d.marks = max(d.marks, 1)
			return
		}
	}
}

// repairBy adds to seen what can be made from parities. Each repair is checked by the hash in the record after it,
// where that is there.
func (d *found) repairBy(parities []frame, seen map[uint64]frame) {
	for _, p := range parities {
		f := repair(p, func(seq uint64) frame { return seen[seq] })
		if f == nil {
			continue
		}
		if next := seen[f.seq()+1]; next != nil && next.span() == 1 && next.prev() != f.hash() {
			continue
		}
		seen[f.seq()] = f
		d.repaired = append(d.repaired, f.seq())
	}
}
