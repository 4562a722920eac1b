package wal

import (
	"encoding/binary"
)

// salvage reads a segment both of whose headers are gone. The salt is in the checksum of each frame, so one frame gives
// it and another one has to agree; the rest is in the frames. What can't be told apart like this is errHeader.
func salvage(dir Dir, number uint64) (segment, error) {
	f, err := dir.Open(segmentName(number))
	if err != nil {
		return segment{}, err
	}
	defer f.Close()
	data, err := readAll(f)
	if err != nil {
		return segment{}, err
	}
	tries := 64 // what is no frame may look like one, but not so often
	for at := firstFrame; at+frameHeader <= len(data) && tries > 0; at += align {
		s, ok := saltAt(data[at:])
		if !ok {
			continue
		}
		tries--
		all := scan(data, s)
		if len(all.frames) < 2 {
			continue
		}
		h := header{number: number, salt: s, first: all.frames[0].first(), prev: all.frames[0].prev()}
		for _, f := range all.frames {
			if f.span() > 1 { // it has a level, and ended with a record whose hash nobody knows any more
				h.level, h.sealed = 1, Hash{1}
			}
		}
		h.finals = onlyFinals(all.frames)
		return segment{header: h, size: int64(len(data))}, nil
	}
	return segment{}, errHeader
}

// onlyFinals says that the frames are like those in a segment of final records: it leaves others out.
func onlyFinals(frames []frame) bool {
	for _, f := range frames {
		if !f.final() {
			return false
		}
	}
	return true
}

// saltAt is the salt that makes the checksum of the frame at the start of data right, if it looks like one.
func saltAt(data []byte) (salt, bool) {
	mark, n := binary.LittleEndian.Uint32(data), binary.LittleEndian.Uint32(data[8:])
	if mark == 0 || uint64(n) > uint64(len(data)-frameHeader) {
		return 0, false
	}
	f := frame(data[:frameHeader+int(n)])
	if !f.sensible() {
		return 0, false
	}
	s := unsum(mark, binary.LittleEndian.Uint32(f[4:]), f.image())
	return s, s.parseFrame(data) != nil
}

// unsum finds the salt with this low half for which sum(b) is sum: a step of a CRC can be undone.
func unsum(low, sum uint32, b []byte) salt {
	crc := ^sum
	for i := len(b) - 1; i >= 0; i-- {
		crc = unstep(crc) ^ uint32(b[i])
	}
	want := crc // what the register is after the salt
	crc = ^uint32(0)
	table := castagnoli()
	for _, c := range binary.LittleEndian.AppendUint32(nil, low) {
		crc = table[byte(crc)^c] ^ crc>>8
	}
	for range 4 {
		want = unstep(want)
	}
	return salt(low) | salt(want^crc)<<32
}

// unstep is the register before a step of the CRC with a byte of zero.
func unstep(crc uint32) uint32 {
	const polynomial = 0x82f63b78
	for range 8 {
		if crc&(1<<31) != 0 {
			crc = (crc^polynomial)<<1 | 1
		} else {
			crc <<= 1
		}
	}
	return crc
}
