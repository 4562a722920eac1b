package record

import (
	"math/bits"

	"github.com/unkeyed/unkey/go/deploy/metald/internal/metering/usage"
)

// version is the first byte of each body.
const version = 1

func zigzag(v int64) uint64   { return uint64(v)<<1 ^ uint64(v>>63) }
func unzigzag(v uint64) int64 { return int64(v>>1) ^ -int64(v&1) }

// unitShift is what a field is mostly a multiple of, as a power of two: disks move sectors, and memory is held in pages.
var unitShift = [usage.Fields]uint{
	usage.DiskRead: 9, usage.DiskWritten: 9, usage.Resident: 12, usage.Allocated: 12,
}

// escape comes before a difference that has no room for the bit that tells units from bytes. As a difference it would
// be none, in bytes, and those are not written.
const escape = 1

// diff writes by how much a field grew. Differences are modulo 2^64, so there is one for any two values.
func (w *writer) diff(f usage.Field, grew uint64) {
	shift := unitShift[f]
	if shift == 0 {
		w.int(int64(grew))
		return
	}
	z := zigzag(int64(grew))
	switch {
	case grew&(1<<shift-1) == 0:
		w.uint(zigzag(int64(grew)>>shift) << 1)
	case z>>63 == 0:
		w.uint(z<<1 | 1)
	default:
		w.uint(escape)
		w.uint(z)
	}
}

func (r *reader) diff(f usage.Field) uint64 {
	v := r.uint()
	shift := unitShift[f]
	switch {
	case shift == 0:
		return uint64(unzigzag(v))
	case v == escape:
		return uint64(unzigzag(r.uint()))
	case v&1 == 0:
		return uint64(unzigzag(v>>1) << shift)
	}
	return uint64(unzigzag(v >> 1))
}

// diff128 writes is beyond was, modulo 2^128, with the sign in the lowest bit.
func (w *writer) diff128(was, is usage.U128) {
	d := minus(is, was)
	sign := -(d.Hi >> 63)
	w.u128(usage.U128{Hi: (d.Hi<<1 | d.Lo>>63) ^ sign, Lo: d.Lo<<1 ^ sign})
}

func (r *reader) diff128(was usage.U128) usage.U128 {
	v := r.u128()
	sign := -(v.Lo & 1)
	lo, carry := bits.Add64(was.Lo, (v.Lo>>1|v.Hi<<63)^sign, 0)
	hi, _ := bits.Add64(was.Hi, v.Hi>>1^sign, carry)
	return usage.U128{Hi: hi, Lo: lo}
}

func minus(a, b usage.U128) usage.U128 {
	lo, borrow := bits.Sub64(a.Lo, b.Lo, 0)
	hi, _ := bits.Sub64(a.Hi, b.Hi, borrow)
	return usage.U128{Hi: hi, Lo: lo}
}
