package record

import (
	"encoding/binary"

	"github.com/unkeyed/unkey/go/deploy/metald/internal/metering/usage"
)

// writer appends to a body.
type writer struct{ b []byte }

func (w *writer) byte(v byte)     { w.b = append(w.b, v) }
func (w *writer) uint(v uint64)   { w.b = binary.AppendUvarint(w.b, v) }
func (w *writer) int(v int64)     { w.b = binary.AppendVarint(w.b, v) }
func (w *writer) bytes(v []byte)  { w.uint(uint64(len(v))); w.b = append(w.b, v...) }
func (w *writer) text(v string)   { w.uint(uint64(len(v))); w.b = append(w.b, v...) }
func (w *writer) set(v usage.Set) { w.byte(byte(v)) }

// again writes v, or that it is what was written before.
func (w *writer) again(v string, before *string) {
	if v == *before {
		w.uint(0)
		return
	}
	w.uint(uint64(len(v)) + 1)
	w.b = append(w.b, v...)
	*before = v
}

// time writes t as what it is beyond from.
func (w *writer) time(t, from usage.Time) {
	mono := t.Mono - from.Mono
	w.int(mono)
	w.int(t.Wall - from.Wall - mono)
}

func (w *writer) u128(v usage.U128) {
	for v.Hi != 0 || v.Lo >= 0x80 {
		w.byte(byte(v.Lo) | 0x80)
		v.Lo = v.Lo>>7 | v.Hi<<57
		v.Hi >>= 7
	}
	w.byte(byte(v.Lo))
}

func (w *writer) reading(r usage.Reading) {
	w.set(r.Known())
	for f := range usage.Field(usage.Fields) {
		if v, ok := r.Value(f); ok {
			w.uint(v)
		}
	}
}

func (w *writer) amount(a usage.Amount) {
	var there uint64
	for q := range a.Of {
		if !a.Of[q].IsZero() {
			there |= 1 << q
		}
	}
	w.uint(there)
	for q := range a.Of {
		if !a.Of[q].IsZero() {
			w.u128(a.Of[q])
		}
	}
	w.set(a.Measured)
	w.set(a.Incomplete)
}

func (w *writer) totals(t usage.Totals, from usage.Time) {
	w.time(t.At, from)
	w.uint(t.Next)
	w.amount(t.Amount)
}

func (w *writer) sample(s usage.Sample, from usage.Time) {
	w.uint(s.Seq)
	w.time(s.At, from)
	w.byte(byte(s.State))
	w.reading(s.Reading)
}

// names are what the line before had: in a keyframe most lines have the same.
type names struct{ host, boot, customer string }

func (w *writer) life(l *usage.Life, from usage.Time, before *names) {
	i := &l.Incarnation
	w.uint(i.Epoch)
	w.again(i.Host, &before.host)
	w.again(i.Boot, &before.boot)
	w.again(l.Customer, &before.customer)
	w.text(i.VM)
	w.uint(i.StartTicks)
	w.time(l.Start, from)
	w.byte(byte(l.State))
	w.reading(l.Baseline)
	w.limits(l.Limits)
}

func (w *writer) limits(l usage.Limits) {
	w.uint(l.CPUMilli)
	w.uint(l.MemoryBytes)
	w.uint(l.DiskBytesPerSecond)
	w.uint(l.NetBytesPerSecond)
	w.uint(l.TickNs)
}

// meter writes m without what its life has.
func (w *writer) meter(m *usage.Meter, from usage.Time) {
	w.totals(m.Totals, from)
	w.byte(byte(m.State))
	w.reading(m.Last)
	for f := range usage.Field(usage.Fields) {
		if _, ok := m.Last.Value(f); ok {
			w.time(m.Seen[f], m.Totals.At)
		}
	}
	w.uint(m.Lost)
	w.set(m.Unknown)
}
