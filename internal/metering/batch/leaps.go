package batch

import (
	"encoding/binary"
	"fmt"

	"github.com/unkeyed/unkey/go/deploy/metald/internal/metering/usage"
)

// MaxLeaps is the most leaps that a payload can have.
const MaxLeaps = 10_000

// leaps appends a section of leaps, if there are any. Of each it has, as unsigned varints: the tick after the last; what
// was used of each quantity, high and low; the sets of measured and of incomplete fields; state; ticks that were not
// read and are not yet counted; the set of fields that are UNKNOWN; the set of fields with a value; then for each of
// those the value and how long before the last tick it was seen, monotonic clock and wall clock beyond it; and before
// all that the times of the last tick, as signed varints of monotonic clock and wall clock beyond it.
func leaps(b []byte, list []usage.Meter) []byte {
	if len(list) == 0 {
		return b
	}
	b = binary.AppendUvarint(b, uint64(len(list)))
	for i := range list {
		b = leap(b, &list[i])
	}
	return b
}

func leap(b []byte, m *usage.Meter) []byte {
	at := m.Totals.At
	b = binary.AppendVarint(b, at.Mono)
	b = binary.AppendVarint(b, at.Wall-at.Mono)
	b = binary.AppendUvarint(b, m.Totals.Next)
	for _, of := range m.Totals.Of {
		b = binary.AppendUvarint(b, of.Hi)
		b = binary.AppendUvarint(b, of.Lo)
	}
	b = append(b, byte(m.Totals.Measured), byte(m.Totals.Incomplete), byte(m.State))
	b = binary.AppendUvarint(b, m.Lost)
	b = append(b, byte(m.Unknown), byte(m.Last.Known()))
	for f := range usage.Field(usage.Fields) {
		if v, ok := m.Last.Value(f); ok {
			seen := m.Seen[f]
			b = binary.AppendUvarint(b, v)
			b = binary.AppendVarint(b, at.Mono-seen.Mono)
			b = binary.AppendVarint(b, seen.Wall-seen.Mono-(at.Wall-at.Mono))
		}
	}
	return b
}

func (r *reader) leaps() []usage.Meter {
	n := r.count()
	if n > MaxLeaps {
		r.fail(fmt.Errorf("payload: %d leaps, and at most %d may be", n, MaxLeaps))
		return nil
	}
	list := make([]usage.Meter, n)
	for i := 0; i < n && r.err == nil; i++ {
		r.leap(&list[i])
	}
	return list
}

func (r *reader) leap(m *usage.Meter) {
	at := &m.Totals.At
	at.Mono = r.int()
	at.Wall = at.Mono + r.int()
	m.Totals.Next = r.uint()
	for q := range m.Totals.Of {
		m.Totals.Of[q] = usage.U128{Hi: r.uint(), Lo: r.uint()}
	}
	m.Totals.Measured, m.Totals.Incomplete, m.State = r.set(), r.set(), r.state()
	m.Lost, m.Unknown = r.uint(), r.set()
	known := r.set()
	for f := range usage.Field(usage.Fields) {
		if known.Has(f) && r.err == nil {
			m.Last.Put(f, r.uint())
			m.Seen[f].Mono = at.Mono - r.int()
			m.Seen[f].Wall = m.Seen[f].Mono + at.Wall - at.Mono + r.int()
		}
	}
}

func (r *reader) uint() uint64 {
	v, size := binary.Uvarint(r.raw)
	if size <= 0 {
		r.fail(errShort)
		return 0
	}
	r.raw = r.raw[size:]
	return v
}

func (r *reader) int() int64 {
	v, size := binary.Varint(r.raw)
	if size <= 0 {
		r.fail(errShort)
		return 0
	}
	r.raw = r.raw[size:]
	return v
}

func (r *reader) set() usage.Set {
	s := usage.Set(r.byte())
	if s&^usage.All != 0 {
		r.fail(fmt.Errorf("payload: unknown fields %#x", uint8(s)))
	}
	return s
}
