package record

import (
	"fmt"

	"github.com/unkeyed/unkey/go/deploy/metald/internal/metering/usage"
)

// Flags of a row's fields, beside those of the fields themselves.
const knownFollows = 1 << 7

// Tick appends one tick: a line for each incarnation, in order of epoch. Of those that have none nothing was read; a
// line of one that is not in the table is left out. missed is how many ticks before it were not taken, of all
// incarnations that had a tick before.
func (e *Encoder) Tick(dst []byte, at usage.Time, missed uint64, lines []Line) []byte {
	e.sort(lines)
	w := writer{dst}
	w.byte(version)
	w.uint(missed)
	w.time(at, tickAfter(e.at, missed))
	w.uint(uint64(len(e.table)))
	gap := uint64(0)
	for _, en := range e.table {
		if w.row(&en.coding, en.now, gap) {
			gap = 0
		} else {
			gap++
		}
		e.count(en, at, missed)
	}
	e.at = at
	return w.b
}

// tickAfter is when the tick is expected that comes after from.
func tickAfter(from usage.Time, missed uint64) usage.Time {
	ns := int64(missed+1) * interval
	return usage.Time{Mono: from.Mono + ns, Wall: from.Wall + ns}
}

// sort gives each incarnation its line.
func (e *Encoder) sort(lines []Line) {
	for _, en := range e.table {
		en.now = usage.Reading{}
	}
	next := 0
	for i := range lines {
		epoch := lines[i].Epoch
		for next < len(e.table) && e.table[next].Life.Incarnation.Epoch < epoch {
			next++
		}
		if next < len(e.table) && e.table[next].Life.Incarnation.Epoch == epoch {
			e.table[next].now = lines[i].Reading
		} else if en := e.table.get(epoch); en != nil {
			en.now = lines[i].Reading
		}
	}
}

// row writes what of an incarnation is not as it was, if anything, after gap others that are.
func (w *writer) row(c *coding, now usage.Reading, gap uint64) bool {
	var moved usage.Set
	var grew [usage.Fields]uint64
	for f := range usage.Field(usage.Fields) {
		if v, ok := now.Value(f); ok && v != c.values[f] {
			grew[f] = v - c.values[f]
			c.values[f] = v
			moved |= 1 << f
		}
	}
	known := now.Known()
	if moved == 0 && known == c.known {
		return false
	}
	if moved == c.moved && known == c.known {
		w.uint(gap << 1)
	} else {
		w.uint(gap<<1 | 1)
		if known == c.known {
			w.set(moved)
		} else {
			w.byte(byte(moved) | knownFollows)
			w.set(known)
		}
	}
	for f := range usage.Field(usage.Fields) {
		if moved.Has(f) {
			w.diff(f, grew[f])
		}
	}
	c.known, c.moved = known, moved
	return true
}

// count adds what was read to what was used.
func (e *Encoder) count(en *entry, at usage.Time, missed uint64) {
	e.found = en.Meter.Add(en.sample(at, missed, en.now), nil, e.found[:0])
	if e.Found == nil {
		return
	}
	for _, f := range e.found {
		e.Found(en.Life.Incarnation.Epoch, f)
	}
}

// sample moves the incarnation on by a tick.
func (o *Open) sample(at usage.Time, missed uint64, r usage.Reading) usage.Sample {
	o.skip(missed)
	s := usage.Sample{Seq: o.Next, At: at, State: o.State, Reading: r}
	o.Next++
	o.At, o.Last = at, r
	return s
}

// row is what a tick says of an incarnation.
type row struct {
	at           int // in the table
	known, moved usage.Set
	grew         [usage.Fields]uint64
}

func (d *Decoder) tick(r *reader, sink Sink) {
	missed := r.uint()
	at := r.time(tickAfter(d.at, missed))
	n := r.uint()
	if !d.whole || r.err != nil {
		return
	}
	if n != uint64(len(d.table)) {
		r.fail(fmt.Errorf("a tick of %d incarnations, and the table has %d", n, len(d.table)))
		return
	}
	d.rows = d.rows[:0]
	for next := 0; len(r.b) > 0 && r.err == nil; next++ {
		next = d.row(r, next)
	}
	if r.err != nil {
		return
	}
	d.at, d.ticked = at, true
	for i := range d.rows {
		d.table[d.rows[i].at].coding.apply(&d.rows[i])
	}
	for _, en := range d.table {
		s := en.Open.sample(at, missed, en.coding.reading())
		sink.Sample(en.Life.Incarnation.Epoch, s)
	}
}

// row reads a row that is at place next of the table or later, and returns where.
func (d *Decoder) row(r *reader, next int) int {
	head := r.uint()
	if head>>1 >= uint64(len(d.table)-next) {
		r.fail(errValue)
		return next
	}
	next += int(head >> 1)
	c := &d.table[next].coding
	w := row{at: next, known: c.known, moved: c.moved}
	if head&1 == 1 {
		flags := r.byte()
		w.moved = usage.Set(flags &^ knownFollows)
		if flags&knownFollows != 0 {
			w.known = r.set()
		}
	}
	for f := range usage.Field(usage.Fields) {
		if w.moved.Has(f) {
			w.grew[f] = r.diff(f)
		}
	}
	d.rows = append(d.rows, w)
	return next
}

func (c *coding) apply(w *row) {
	for f := range usage.Field(usage.Fields) {
		c.values[f] += w.grew[f]
	}
	c.known, c.moved = w.known, w.moved
}
