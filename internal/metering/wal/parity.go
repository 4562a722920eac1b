package wal

import (
	"crypto/subtle"
	"encoding/binary"
)

// Records are usually coded against the one before, so that one lost record would take all with it up to the next
// keyframe. Therefore each group of up to stripes × members records is followed by one parity frame per stripe. A
// stripe is every fourth record, so that damage to four neighbours, too, can be repaired.
//
// A parity frame has the number of the first record of its stripe, and the flag. Its body is the count of records, the
// distance of their numbers, and the exclusive or of their images, the shorter ones filled up by zeros. An image is
// what is in the frame from byte 8 to the end of the body.
const (
	stripes      = 4
	members      = 16
	parityHeader = 2
)

// parity adds up the frames of a group.
type parity struct {
	frames int
	next   uint64 // number of the record that would follow
	stripe [stripes]struct {
		first uint64
		count int
		image []byte
	}
}

// add takes in the next frame. Full says that the group is complete.
func (p *parity) add(f frame) (full bool) {
	s := &p.stripe[p.frames%stripes]
	if s.count == 0 {
		s.first, s.image = f.seq(), s.image[:0]
	}
	s.count++
	s.image = xorInto(s.image, f.image())
	p.frames++
	p.next = f.seq() + 1
	return p.frames == stripes*members
}

// breaks says that a record of this number can't be in the group, since numbers between are missing.
func (p *parity) breaks(f frame) bool {
	return p.frames > 0 && (f.seq() != p.next || f.span() != 1)
}

// size is what the frames of the group would take up if f was in it.
func (p *parity) size(f frame) int {
	n := 0
	for i := range p.stripe {
		s := &p.stripe[i]
		image := 0
		if s.count > 0 {
			image = len(s.image)
		}
		if f != nil && i == p.frames%stripes {
			image = max(image, len(f.image()))
		}
		if image > 0 {
			n += frameSize(parityHeader + image)
		}
	}
	return n
}

// appendTo appends the frames of the group, and begins another.
func (p *parity) appendTo(dst []byte, salt salt) []byte {
	for i := range p.stripe {
		s := &p.stripe[i]
		if s.count == 0 {
			continue
		}
		start := len(dst)
		dst = appendFrame(dst, s.first, 1, flagParity, 0, nil)
		dst = append(append(dst, byte(s.count), stripes), s.image...)
		binary.LittleEndian.PutUint32(dst[start+8:], uint32(parityHeader+len(s.image)))
		frame(dst[start:]).seal(salt)
		for len(dst)%align != start%align {
			dst = append(dst, 0)
		}
		s.count = 0
	}
	p.frames = 0
	return dst
}

func (p *parity) reset() {
	p.frames = 0
	for i := range p.stripe {
		p.stripe[i].count = 0
	}
}

func xorInto(dst, src []byte) []byte {
	n := min(len(dst), len(src))
	subtle.XORBytes(dst, dst[:n], src)
	if len(src) > len(dst) {
		dst = append(dst, src[n:]...)
	}
	return dst
}

// repair makes the one missing frame of the stripe that the parity frame p is of, or nil if it is not exactly one, or
// what comes out is no such frame. It asks have for the others.
func repair(p frame, have func(seq uint64) frame) frame {
	body := p.body()
	if len(body) < parityHeader+frameHeader-imageStart || body[0] == 0 || body[1] == 0 {
		return nil
	}
	image := append(make([]byte, imageStart), body[parityHeader:]...)
	missing, lost := uint64(0), 0
	for i := range uint64(body[0]) {
		seq := p.seq() + i*uint64(body[1])
		f := have(seq)
		if f == nil {
			missing, lost = seq, lost+1
		} else if len(f.image()) > len(image)-imageStart {
			return nil
		} else {
			subtle.XORBytes(image[imageStart:], image[imageStart:imageStart+len(f.image())], f.image())
		}
	}
	if lost != 1 {
		return nil
	}
	return imaged(image, missing)
}

// imaged is the frame of this number whose image, and zeros after it, begin at byte 8.
func imaged(image []byte, seq uint64) frame {
	n := frame(image).bodyLen()
	if n > len(image)-frameHeader {
		return nil
	}
	f, rest := frame(image[:frameHeader+n:frameHeader+n]), image[frameHeader+n:]
	for _, b := range rest {
		if b != 0 {
			return nil
		}
	}
	if f.seq() != seq || !f.sensible() || f.parity() {
		return nil
	}
	return f
}
