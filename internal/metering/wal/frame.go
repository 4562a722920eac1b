package wal

import (
	"crypto/sha256"
	"encoding/binary"
	"hash/crc32"
)

// A frame is a record as a segment holds it. Numbers are little endian.
//
//	 0  u32  mark, the low half of the segment's salt
//	 4  u32  CRC-32C of the salt and of everything from byte 8 to the end of the body
//	 8  u32  length of the body
//	12  u8   flags
//	13  u8   type, the user's
//	14  u16  0
//	16  u32  span: how many numbers the record stands for, its own included
//	20  u32  0
//	24  u64  number of the record
//	32  32B  hash of the record before: the SHA-256 of its bytes from 8 to the end of its body
//	64       body, and zeros up to a multiple of 8
const (
	frameHeader = 64
	imageStart  = 8 // what the CRC, the hash and the parity cover begins here
	align       = 8
)

const (
	flagKeyframe = 1 << iota
	flagFinal
	flagParity
	flagsKnown = flagKeyframe | flagFinal | flagParity
)

// Hash is a SHA-256.
type Hash [sha256.Size]byte

// frame is the bytes of one frame, without what follows its body.
type frame []byte

func (f frame) bodyLen() int   { return int(binary.LittleEndian.Uint32(f[8:])) }
func (f frame) flags() byte    { return f[12] }
func (f frame) span() uint32   { return binary.LittleEndian.Uint32(f[16:]) }
func (f frame) seq() uint64    { return binary.LittleEndian.Uint64(f[24:]) }
func (f frame) first() uint64  { return f.seq() - uint64(f.span()) + 1 }
func (f frame) prev() Hash     { return Hash(f[32:frameHeader]) }
func (f frame) body() []byte   { return f[frameHeader:] }
func (f frame) image() []byte  { return f[imageStart:] }
func (f frame) keyframe() bool { return f.flags()&flagKeyframe != 0 }
func (f frame) final() bool    { return f.flags()&flagFinal != 0 }
func (f frame) parity() bool   { return f.flags()&flagParity != 0 }
func (f frame) hash() Hash     { return sha256.Sum256(f.image()) }

// record is what a user is given; the body is the frame's.
func (f frame) record(level int) Record {
	return Record{
		Seq: f.seq(), First: f.first(), Type: f[13], Keyframe: f.keyframe(), Final: f.final(), Level: level, Body: f.body(),
	}
}

// frameSize is what a body takes up in a segment.
func frameSize(body int) int { return padded(frameHeader + body) }

func padded(n int) int { return (n + align - 1) &^ (align - 1) }

// appendFrame appends a frame that no segment and no place in the chain is chosen for yet, and its padding.
func appendFrame(dst []byte, seq uint64, span uint32, flags, kind byte, body []byte) []byte {
	var h [frameHeader]byte
	binary.LittleEndian.PutUint32(h[8:], uint32(len(body)))
	h[12], h[13] = flags, kind
	binary.LittleEndian.PutUint32(h[16:], span)
	binary.LittleEndian.PutUint64(h[24:], seq)
	dst = append(append(dst, h[:]...), body...)
	var zeros [align]byte
	return append(dst, zeros[:frameSize(len(body))-frameHeader-len(body)]...)
}

// nextFrame cuts the first frame off frames that are one behind the other, such as appendFrame made.
func nextFrame(frames []byte) (f frame, size int) {
	n := frame(frames).bodyLen()
	return frame(frames[:frameHeader+n]), frameSize(n)
}

// link gives a frame its place in the chain.
func (f frame) link(prev Hash) { copy(f[32:], prev[:]) }

// seal makes the frame one of the segment with this salt.
func (f frame) seal(salt salt) {
	binary.LittleEndian.PutUint32(f, salt.mark())
	binary.LittleEndian.PutUint32(f[4:], salt.sum(f.image()))
}

// salt is drawn for each segment. It is part of all its checksums, so that nobody can have bytes written that would
// later be taken for a record, and that what another file left on the disk is none.
type salt uint64

func (s salt) mark() uint32 { return uint32(s) }

// sum is the checksum of the salt's 8 bytes and b. Those of the salt are summed up here: the hash package would have
// them on the heap, with each frame.
func (s salt) sum(b []byte) uint32 {
	table, seed := castagnoli(), ^uint32(0)
	for shift := 0; shift < 64; shift += 8 {
		seed = table[byte(seed)^byte(s>>shift)] ^ seed>>8
	}
	return crc32.Update(^seed, table, b)
}

// castagnoli is the table that the hash package keeps, and has an instruction of most CPUs for.
func castagnoli() *crc32.Table { return crc32.MakeTable(crc32.Castagnoli) }

// parseFrame returns the frame at the start of data, or nil where there is none, or none any more.
func (s salt) parseFrame(data []byte) frame {
	if len(data) < frameHeader || binary.LittleEndian.Uint32(data) != s.mark() {
		return nil
	}
	n := binary.LittleEndian.Uint32(data[8:])
	if uint64(n) > uint64(len(data)-frameHeader) {
		return nil
	}
	f := frame(data[: frameHeader+int(n) : frameHeader+int(n)])
	if binary.LittleEndian.Uint32(data[4:]) != s.sum(f.image()) || !f.sensible() {
		return nil
	}
	return f
}

// sensible refuses what no writer of this format writes, whatever its checksum says.
func (f frame) sensible() bool {
	zero := f[14]|f[15] == 0 && binary.LittleEndian.Uint32(f[20:]) == 0
	return zero && f.flags()&^flagsKnown == 0 && f.span() > 0 && uint64(f.span()) <= f.seq()
}
