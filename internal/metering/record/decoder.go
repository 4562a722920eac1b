package record

import (
	"fmt"

	"github.com/unkeyed/unkey/go/deploy/metald/internal/metering/usage"
)

// Decoder reads records in their order. It is for one goroutine. Ticks before the first keyframe are passed over.
type Decoder struct {
	table table
	at    usage.Time
	whole bool // nothing is missing since the last keyframe
	// ticked: there were ticks since the keyframe. They leave the meters of the table as they were: whoever needs totals
	// has meters, and reading costs a tenth without.
	ticked bool

	rows  []row // scratch
	leaps []leap
	open  []Open
}

// Decode gives sink what a record says. The error is for a body that no Encoder made: it is as good as lost, and the
// sink was given nothing of it.
func (d *Decoder) Decode(typ byte, body []byte, sink Sink) error {
	r := reader{b: body}
	r.version()
	switch typ {
	case TypeKeyframe:
		d.keyframe(&r, sink)
	case TypeTick:
		d.tick(&r, sink)
	case TypeBegin:
		d.begin(&r, sink)
	case TypeEnter:
		d.enter(&r, sink)
	case TypeEnd:
		d.end(&r, sink)
	case TypeThin:
		d.thin(&r, sink)
	case TypeSigned:
		d.signed(&r, sink)
	case TypeLost:
		d.lost(&r, sink)
	default:
		r.fail(fmt.Errorf("records of type %d are not known", typ))
	}
	if r.err != nil {
		d.Lost()
		return fmt.Errorf("record of type %d: %w", typ, r.err)
	}
	return nil
}

// Lost says that records are missing here. Ticks can be decoded again after the next keyframe, and Enter is passed over
// until then, too: a meter that has not seen what was entered before would lay time on the wrong state, and the meters
// of the keyframe have all of it.
func (d *Decoder) Lost() { d.whole = false }

func (d *Decoder) lost(r *reader, sink Sink) {
	n := r.uint()
	if r.end() != nil {
		return
	}
	d.Lost()
	if m, ok := sink.(Mourner); ok {
		m.Lost(n)
	}
}

func (d *Decoder) keyframe(r *reader, sink Sink) {
	at := r.time(usage.Time{})
	n := r.uint()
	open := d.open[:0]
	var before names
	for i := uint64(0); i < n && r.err == nil; i++ {
		o := r.open(at, &before)
		if len(open) > 0 && o.Life.Incarnation.Epoch <= open[len(open)-1].Life.Incarnation.Epoch {
			r.fail(errValue)
		}
		open = append(open, o)
	}
	d.open = open
	if r.end() != nil {
		return
	}
	d.table = d.table[:0]
	for i := range open {
		en := &entry{Open: open[i]}
		en.coding.from(&en.Open)
		d.table = append(d.table, en)
	}
	d.at, d.whole, d.ticked = at, true, false
	sink.Table(at, open)
}

func (r *reader) open(at usage.Time, before *names) (o Open) {
	o.Life = r.life(at, before)
	o.Meter = r.meter(&o.Life, at)
	o.Next = r.uint()
	o.At = r.time(at)
	o.State = r.state()
	known := r.set()
	for f := range usage.Field(usage.Fields) {
		if known.Has(f) {
			believed, _ := o.Meter.Last.Value(f)
			o.Last.Put(f, believed+r.diff(f))
		}
	}
	return o
}

func (d *Decoder) begin(r *reader, sink Sink) {
	l := r.life(usage.Time{}, &names{})
	if r.end() != nil {
		return
	}
	en := &entry{Open: begun(l)}
	en.coding.from(&en.Open)
	d.table.put(en)
	sink.Begin(l)
}

func (d *Decoder) enter(r *reader, sink Sink) {
	epoch := r.uint()
	at := r.time(usage.Time{})
	state := r.state()
	if r.end() != nil || !d.whole {
		return
	}
	if en := d.table.get(epoch); en != nil {
		en.Meter.Enter(at, state, nil)
		en.State = state
	}
	sink.Enter(epoch, at, state)
}

func (d *Decoder) end(r *reader, sink Sink) {
	var e usage.End
	e.Life = r.life(usage.Time{}, &names{})
	e.Last = r.sample(e.Life.Start)
	e.Final = r.totals(e.Life.Start)
	e.Reason = r.text()
	if r.end() != nil {
		return
	}
	d.table.remove(e.Life.Incarnation.Epoch)
	sink.End(e)
}

func (d *Decoder) signed(r *reader, sink Sink) {
	s := Signature{Record: r.uint()}
	copy(s.Hash[:], r.take(uint64(len(s.Hash))))
	s.SignedAt = r.int()
	s.PublicKey, s.Signature = r.bytes(), r.bytes()
	if r.end() == nil {
		sink.Signed(s)
	}
}
