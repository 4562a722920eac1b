package wal

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
)

// A segment begins with two copies of its header, in different blocks of the disk, so that one damaged block does not
// cost the segment.
//
//	  0  8B   magic
//	  8  u32  version of the format
//	 12  u16  level: 0, or how often its records were made coarser
//	 14  u16  flags: 1 if it holds only final records
//	 16  u64  number of the segment
//	 24  u64  number of its first record
//	 32  u64  number of its last record, where the level is not 0
//	 40  u64  salt
//	 48  32B  hash of the record before its first one
//	 80  32B  hash of its last record before it was made coarser, where the level is not 0
//	112  u16  length of the label
//	114       label
//	508  u32  CRC-32C of all before
const (
	magic       = "mdwal01\n"
	version     = 1
	headerSize  = 512
	secondCopy  = 4096
	firstFrame  = 8192
	labelOffset = 114
	// MaxLabel is the longest label, in bytes.
	MaxLabel = headerSize - 4 - labelOffset

	flagFinals = 1
)

var (
	errHeader  = errors.New("no whole header")
	errForeign = errors.New("the header is another segment's")
)

type header struct {
	level  int
	finals bool // holds final records that others may not have
	number uint64
	first  uint64
	last   uint64
	salt   salt
	prev   Hash
	sealed Hash
	label  []byte
}

// name is the file's.
func (h header) name() string { return segmentName(h.number) }

func segmentName(number uint64) string { return fmt.Sprintf("%016x%s", number, suffix) }

// block is what a segment holds before its first frame.
func (h header) block() []byte {
	b := make([]byte, firstFrame)
	h.encode(b[:headerSize])
	copy(b[secondCopy:], b[:headerSize])
	return b
}

func (h header) encode(b []byte) {
	copy(b, magic)
	binary.LittleEndian.PutUint32(b[8:], version)
	binary.LittleEndian.PutUint16(b[12:], uint16(h.level))
	if h.finals {
		b[14] = flagFinals
	}
	binary.LittleEndian.PutUint64(b[16:], h.number)
	binary.LittleEndian.PutUint64(b[24:], h.first)
	binary.LittleEndian.PutUint64(b[32:], h.last)
	binary.LittleEndian.PutUint64(b[40:], uint64(h.salt))
	copy(b[48:], h.prev[:])
	copy(b[80:], h.sealed[:])
	binary.LittleEndian.PutUint16(b[112:], uint16(len(h.label)))
	copy(b[labelOffset:], h.label)
	binary.LittleEndian.PutUint32(b[headerSize-4:], crc32.Checksum(b[:headerSize-4], castagnoli()))
}

// readHeader reads whichever copy is whole and is of the segment with the number. If there is only another one's, that
// is errForeign.
func readHeader(f File, number uint64) (header, error) {
	var b [headerSize]byte
	none := errHeader
	for _, at := range []int64{0, secondCopy} {
		if _, err := f.ReadAt(b[:], at); err != nil {
			continue // the other copy may be readable
		}
		h, err := decodeHeader(b[:])
		switch {
		case errors.Is(err, errHeader):
		case err == nil && h.number != number:
			none = errForeign
		default:
			return h, err
		}
	}
	return header{}, none
}

func decodeHeader(b []byte) (header, error) {
	if !bytes.HasPrefix(b, []byte(magic)) || binary.LittleEndian.Uint32(b[headerSize-4:]) != crc32.Checksum(b[:headerSize-4], castagnoli()) {
		return header{}, errHeader
	}
	if v := binary.LittleEndian.Uint32(b[8:]); v != version {
		return header{}, fmt.Errorf("segment of version %d; this program reads version %d", v, version)
	}
	n := int(binary.LittleEndian.Uint16(b[112:]))
	if n > MaxLabel {
		return header{}, errHeader
	}
	return header{
		level:  int(binary.LittleEndian.Uint16(b[12:])),
		finals: b[14]&flagFinals != 0,
		number: binary.LittleEndian.Uint64(b[16:]),
		first:  binary.LittleEndian.Uint64(b[24:]),
		last:   binary.LittleEndian.Uint64(b[32:]),
		salt:   salt(binary.LittleEndian.Uint64(b[40:])),
		prev:   Hash(b[48:80]),
		sealed: Hash(b[80:112]),
		label:  bytes.Clone(b[labelOffset : labelOffset+n]),
	}, nil
}
