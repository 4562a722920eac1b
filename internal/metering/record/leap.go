package record

import (
	"errors"
	"math/bits"

	"github.com/unkeyed/unkey/go/deploy/metald/internal/metering/usage"
)

// Flags of a change, beside one for each field whose value is another.
const (
	changedTotals = 1 << (usage.Fields + iota) // more or less was used than was expected
	changedSets
	changedSeen
	changedMoment // when, how many ticks, the state
	changedNot    // nothing at all was used since
	changes       = 1<<(usage.Fields+5) - 1
)

// expect is m after ticks at which all is as it was, the last of them at at.
func expect(m usage.Meter, at usage.Time, ticks uint64) usage.Meter {
	if ticks == 0 {
		return m
	}
	s := usage.Sample{Seq: m.Totals.Next, At: at, State: m.State}
	for f := range usage.Field(usage.Fields) {
		if v, ok := m.Last.Value(f); ok && !m.Unknown.Has(f) {
			s.Reading.Put(f, v)
		}
	}
	m.Add(s, nil, nil)
	m.Totals.Next += ticks - 1
	return m
}

// carry lays what counters grew by on what was expected to be used.
func carry(expected *usage.Meter, last usage.Reading) (of [usage.Quantities]usage.U128) {
	of = expected.Totals.Of
	for f := range usage.Field(usage.Counters) {
		was, ok := expected.Last.Value(f)
		if is, _ := last.Value(f); ok && is > was {
			of[f] = of[f].Plus(usage.Of64(is - was))
		}
	}
	return of
}

// change writes what is other in m than was expected.
func (w *writer) change(expected, m *usage.Meter) {
	var flags uint64
	for f := range usage.Field(usage.Fields) {
		was, _ := expected.Last.Value(f)
		if is, _ := m.Last.Value(f); is != was {
			flags |= 1 << f
		}
	}
	var used, seen uint64
	of := carry(expected, m.Last)
	for q := range of {
		if of[q] != m.Totals.Of[q] {
			used |= 1 << q
			flags |= changedTotals
		}
	}
	for f := range m.Seen {
		if m.Seen[f] != expected.Seen[f] {
			seen |= 1 << f
			flags |= changedSeen
		}
	}
	if setsOf(expected) != setsOf(m) {
		flags |= changedSets
	}
	if momentOf(expected) != momentOf(m) {
		flags |= changedMoment
	}
	w.uint(flags)
	if flags&changedMoment != 0 {
		w.time(m.Totals.At, expected.Totals.At)
		w.uint(m.Totals.Next)
		w.byte(byte(m.State))
		w.uint(m.Lost)
	}
	if flags&changedSets != 0 {
		for _, s := range setsOf(m) {
			w.set(s)
		}
	}
	for f := range usage.Field(usage.Fields) {
		if flags>>f&1 == 1 {
			was, _ := expected.Last.Value(f)
			is, _ := m.Last.Value(f)
			w.diff(f, is-was)
		}
	}
	if used != 0 {
		w.uint(used)
		for q := range of {
			if used>>q&1 == 1 {
				w.diff128(of[q], m.Totals.Of[q])
			}
		}
	}
	if seen != 0 {
		w.byte(byte(seen))
		from := m.Totals.At
		for f := range m.Seen {
			if seen>>f&1 == 1 {
				w.time(m.Seen[f], from)
				from = m.Seen[f]
			}
		}
	}
}

func setsOf(m *usage.Meter) [4]usage.Set {
	return [4]usage.Set{m.Last.Known(), m.Unknown, m.Totals.Measured, m.Totals.Incomplete}
}

type moment struct {
	at    usage.Time
	next  uint64
	state usage.State
	lost  uint64
}

func momentOf(m *usage.Meter) moment {
	return moment{m.Totals.At, m.Totals.Next, m.State, m.Lost}
}

// change reads what writer.change has written, behind the flags.
func (r *reader) change(flags uint64, expected *usage.Meter) usage.Meter {
	m := *expected
	if flags&changedMoment != 0 {
		m.Totals.At = r.time(expected.Totals.At)
		m.Totals.Next = r.uint()
		m.State = r.state()
		m.Lost = r.uint()
	}
	known := m.Last.Known()
	if flags&changedSets != 0 {
		known, m.Unknown, m.Totals.Measured, m.Totals.Incomplete = r.set(), r.set(), r.set(), r.set()
	}
	m.Last = usage.Reading{}
	for f := range usage.Field(usage.Fields) {
		v, _ := expected.Last.Value(f)
		if flags>>f&1 == 1 {
			v += r.diff(f)
		}
		if known.Has(f) {
			m.Last.Put(f, v)
		} else if v != 0 {
			r.fail(errValue)
		}
	}
	m.Totals.Of = carry(expected, m.Last)
	if flags&changedTotals != 0 {
		used := r.uint()
		if used>>usage.Quantities != 0 {
			r.fail(errValue)
		}
		for q := range m.Totals.Of {
			if used>>q&1 == 1 {
				m.Totals.Of[q] = r.diff128(m.Totals.Of[q])
			}
		}
	}
	if flags&changedSeen != 0 {
		seen := r.set()
		from := m.Totals.At
		for f := range usage.Field(usage.Fields) {
			if seen.Has(f) {
				from = r.time(from)
				m.Seen[f] = from
			}
		}
	}
	return m
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

// leap is what one incarnation did in many ticks.
type leap struct {
	epoch         uint64
	before, after usage.Meter
}

// flagAll: incarnations without a row did what was expected. Else they are not in the record.
const flagAll = 1

// thin writes leaps, in order of epoch. With all, those of the table that have done as expected need none.
func (w *writer) thin(at usage.Time, ticks uint64, all bool, leaps []leap) {
	w.byte(version)
	if all {
		w.byte(flagAll)
	} else {
		w.byte(0)
	}
	w.time(at, usage.Time{})
	w.uint(ticks)
	last := uint64(0)
	for i := range leaps {
		l := &leaps[i]
		expected := expect(l.before, at, ticks)
		nothing := l.after == l.before
		if all && l.after == expected || !all && nothing {
			continue
		}
		w.uint(l.epoch - last)
		last = l.epoch
		if nothing {
			w.uint(changedNot)
		} else {
			w.change(&expected, &l.after)
		}
	}
}

var errNoKeyframe = errors.New("coarser records behind ticks, and no keyframe between")

// thin reads leaps. They are coded against the meters of the table, which ticks leave as the keyframe had them.
func (d *Decoder) thin(r *reader, sink Sink) {
	flags := r.byte()
	at := r.time(usage.Time{})
	ticks := r.uint()
	if !d.whole || r.err != nil {
		return
	}
	if d.ticked {
		r.fail(errNoKeyframe)
	}
	if flags&^flagAll != 0 {
		r.fail(errValue)
	}
	d.leaps = d.leaps[:0]
	next := 0
	for epoch := uint64(0); len(r.b) > 0; {
		epoch += r.uint()
		i, ok := d.table.find(epoch)
		if r.err != nil || !ok || i < next {
			r.fail(errValue)
			return
		}
		if flags&flagAll != 0 {
			d.expect(next, i, at, ticks)
		}
		next = i + 1
		d.leap(r, d.table[i], at, ticks)
	}
	if flags&flagAll != 0 {
		d.expect(next, len(d.table), at, ticks)
	}
	if r.err != nil {
		return
	}
	for i := range d.leaps {
		l := &d.leaps[i]
		d.table.get(l.epoch).advance(&l.after)
		sink.Thin(l.epoch, l.before.LeapTo(&l.after))
	}
}

// leap reads the change of one incarnation.
func (d *Decoder) leap(r *reader, en *entry, at usage.Time, ticks uint64) {
	flags := r.uint()
	if flags == changedNot {
		return
	}
	if flags&^(changes&^changedNot) != 0 {
		r.fail(errValue)
		return
	}
	expected := expect(en.Meter, at, ticks)
	d.leaps = append(d.leaps, leap{en.Life.Incarnation.Epoch, en.Meter, r.change(flags, &expected)})
}

// expect adds those of the table from first on and before last, which did what was expected.
func (d *Decoder) expect(first, last int, at usage.Time, ticks uint64) {
	for _, en := range d.table[first:last] {
		d.leaps = append(d.leaps, leap{en.Life.Incarnation.Epoch, en.Meter, expect(en.Meter, at, ticks)})
	}
}

// advance puts the incarnation where a leap ends.
func (o *Open) advance(m *usage.Meter) {
	l := usage.Leap{After: *m}
	s := l.Last()
	o.Meter, o.Next, o.At, o.State, o.Last = *m, m.Totals.Next, s.At, s.State, s.Reading
}
