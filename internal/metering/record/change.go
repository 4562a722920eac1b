package record

import "github.com/unkeyed/unkey/go/deploy/metald/internal/metering/usage"

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

// delta is what is other in a meter than was expected.
type delta struct {
	flags uint64
	of    [usage.Quantities]usage.U128 // what is expected of totals, with what counters grew by
	used  uint64                       // lines of the totals that are not as in of
	seen  usage.Set                    // fields that were seen at another time
}

func deltaOf(expected, m *usage.Meter) (d delta) {
	d.of = carry(expected, m.Last)
	for f := range usage.Field(usage.Fields) {
		was, _ := expected.Last.Value(f)
		if is, _ := m.Last.Value(f); is != was {
			d.flags |= 1 << f
		}
		if m.Seen[f] != expected.Seen[f] {
			d.seen |= 1 << f
			d.flags |= changedSeen
		}
	}
	for q := range d.of {
		if d.of[q] != m.Totals.Of[q] {
			d.used |= 1 << q
			d.flags |= changedTotals
		}
	}
	if setsOf(expected) != setsOf(m) {
		d.flags |= changedSets
	}
	if momentOf(expected) != momentOf(m) {
		d.flags |= changedMoment
	}
	return d
}

// change writes what is other in m than was expected.
func (w *writer) change(expected, m *usage.Meter) {
	d := deltaOf(expected, m)
	w.uint(d.flags)
	if d.flags&changedMoment != 0 {
		w.time(m.Totals.At, expected.Totals.At)
		w.uint(m.Totals.Next)
		w.byte(byte(m.State))
		w.uint(m.Lost)
	}
	if d.flags&changedSets != 0 {
		for _, s := range setsOf(m) {
			w.set(s)
		}
	}
	for f := range usage.Field(usage.Fields) {
		if d.flags>>f&1 == 1 {
			was, _ := expected.Last.Value(f)
			is, _ := m.Last.Value(f)
			w.diff(f, is-was)
		}
	}
	if d.used != 0 {
		w.uint(d.used)
		for q := range d.of {
			if d.used>>q&1 == 1 {
				w.diff128(d.of[q], m.Totals.Of[q])
			}
		}
	}
	if d.seen != 0 {
		w.seen(d.seen, m)
	}
}

// seen writes when fields were seen; most were with the one before.
func (w *writer) seen(fields usage.Set, m *usage.Meter) {
	w.set(fields)
	from := m.Totals.At
	for f := range usage.Field(usage.Fields) {
		if fields.Has(f) {
			w.time(m.Seen[f], from)
			from = m.Seen[f]
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
	m.Last = r.values(flags, known, expected.Last)
	m.Totals.Of = carry(expected, m.Last)
	if flags&changedTotals != 0 {
		r.used(&m.Totals)
	}
	if flags&changedSeen != 0 {
		r.seen(&m)
	}
	return m
}

func (r *reader) values(flags uint64, known usage.Set, expected usage.Reading) (last usage.Reading) {
	for f := range usage.Field(usage.Fields) {
		v, _ := expected.Value(f)
		if flags>>f&1 == 1 {
			v += r.diff(f)
		}
		if known.Has(f) {
			last.Put(f, v)
		} else if v != 0 {
			r.fail(errValue)
		}
	}
	return last
}

func (r *reader) used(t *usage.Totals) {
	lines := r.uint()
	if lines>>usage.Quantities != 0 {
		r.fail(errValue)
	}
	for q := range t.Of {
		if lines>>q&1 == 1 {
			t.Of[q] = r.diff128(t.Of[q])
		}
	}
}

func (r *reader) seen(m *usage.Meter) {
	fields := r.set()
	from := m.Totals.At
	for f := range usage.Field(usage.Fields) {
		if fields.Has(f) {
			from = r.time(from)
			m.Seen[f] = from
		}
	}
}
