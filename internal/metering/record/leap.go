package record

import (
	"errors"

	"github.com/unkeyed/unkey/go/deploy/metald/internal/metering/usage"
)

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
