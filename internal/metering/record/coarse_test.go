package record

import (
	"slices"
	"testing"

	"pgregory.net/rapid"

	"github.com/unkeyed/unkey/go/deploy/metald/internal/metering/usage"
)

// books is a sink that keeps meters, as a ledger does, and what is placed.
type books struct {
	events
	meters map[uint64]*usage.Meter
	placed map[uint64]usage.Amount
	ended  map[uint64]usage.Meter
	lost   uint64
	found  []usage.Finding
}

func newBooks() *books {
	return &books{meters: map[uint64]*usage.Meter{}, placed: map[uint64]usage.Amount{}, ended: map[uint64]usage.Meter{}}
}

func (b *books) place(epoch uint64) func(usage.Span) {
	return func(s usage.Span) { b.placed[epoch] = b.placed[epoch].Plus(s.Amount) }
}

func (b *books) Table(at usage.Time, open []Open) {
	for i := range open {
		epoch := open[i].Life.Incarnation.Epoch
		if b.meters[epoch] == nil {
			b.meters[epoch] = open[i].Life.Meter()
		}
		b.found = b.meters[epoch].CatchUp(&open[i].Meter, b.place(epoch), b.found)
	}
}

func (b *books) Begin(l usage.Life) {
	if b.meters[l.Incarnation.Epoch] == nil {
		b.meters[l.Incarnation.Epoch] = l.Meter()
	}
}

func (b *books) Enter(epoch uint64, at usage.Time, state usage.State) {
	if m := b.meters[epoch]; m != nil {
		m.Enter(at, state, b.place(epoch))
	}
}

func (b *books) Sample(epoch uint64, s usage.Sample) {
	if m := b.meters[epoch]; m != nil {
		m.Add(s, b.place(epoch), nil)
	}
}

func (b *books) Thin(epoch uint64, l usage.Leap) {
	if m := b.meters[epoch]; m != nil {
		b.found = m.Leap(l, b.place(epoch), b.found)
	}
}

func (b *books) End(e usage.End) {
	epoch := e.Life.Incarnation.Epoch
	m := b.meters[epoch]
	if m == nil {
		m = e.Life.Meter()
	}
	m.Finish(e, b.place(epoch))
	delete(b.meters, epoch)
	b.ended[epoch] = *m
}

func (b *books) Lost(n uint64) { b.lost += n }

// read has books of what records say.
func read(t *rapid.T, list []Numbered) *books {
	b := newBooks()
	var d Decoder
	next := uint64(1)
	for _, r := range list {
		if r.First > next {
			d.Lost()
			b.lost += r.First - next
		}
		next = r.Seq + 1
		if err := d.Decode(r.Type, r.Body, b); err != nil {
			t.Fatalf("records %d to %d of type %d: %v", r.First, r.Seq, r.Type, err)
		}
	}
	return b
}

// coarser makes a segment coarser, whose records are the numbers 1 to last.
func coarser(t *rapid.T, level int, list []Numbered, last uint64) (coarse []Numbered) {
	next := uint64(1)
	c := NewCoarse(level, func(r Numbered) error {
		if r.First != next || r.Seq < r.First || r.Seq > last {
			t.Fatalf("records %d to %d after %d, of %d", r.First, r.Seq, next-1, last)
		}
		next = r.Seq + 1
		r.Body = slices.Clone(r.Body)
		coarse = append(coarse, r)
		return nil
	})
	from := uint64(1)
	for _, r := range list {
		if r.First > from {
			if err := c.Lost(from, r.First-1); err != nil {
				t.Fatal(err)
			}
		}
		from = r.Seq + 1
		if err := c.Record(r); err != nil {
			t.Fatal(err)
		}
	}
	if from <= last {
		if err := c.Lost(from, last); err != nil {
			t.Fatal(err)
		}
	}
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	if next != last+1 {
		t.Fatalf("records %d to %d are not covered", next, last)
	}
	return coarse
}

func numbered(bodies []body) (list []Numbered) {
	for i, b := range bodies {
		list = append(list, Numbered{First: uint64(i + 1), Seq: uint64(i + 1), Type: b.typ, Keyframe: b.typ == TypeKeyframe, Final: b.typ == TypeEnd, Body: b.bytes})
	}
	return list
}

// TestCoarserRecordsHaveTheSameTotals: of each incarnation exactly what was used is known, at each level, and what is
// placed is all of it.
func TestCoarserRecordsHaveTheSameTotals(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		a := write(t, 120, rapid.Bool().Draw(t, "honest"))
		fine := numbered(a.bodies)
		want := read(t, fine)
		list := fine
		for level := 1; level <= 3; level++ {
			before := len(list)
			list = coarser(t, level, list, uint64(len(fine)))
			if len(list) > before {
				t.Fatalf("%d records became %d", before, len(list))
			}
			got := read(t, list)
			same(t, want, got)
		}
	})
}

func same(t *rapid.T, want, got *books) {
	if len(got.meters) != len(want.meters) || len(got.ended) != len(want.ended) || got.found != nil {
		t.Fatalf("%d live, %d ended, found %v; want %d, %d", len(got.meters), len(got.ended), got.found, len(want.meters), len(want.ended))
	}
	for epoch, m := range want.meters {
		if *got.meters[epoch] != *m {
			t.Fatalf("incarnation %d:\n%+v, want\n%+v", epoch, got.meters[epoch], m)
		}
	}
	for epoch, m := range want.ended {
		if got.ended[epoch] != m {
			t.Fatalf("incarnation %d, ended:\n%+v, want\n%+v", epoch, got.ended[epoch], m)
		}
	}
	for epoch, sum := range want.placed {
		if got.placed[epoch].Of != sum.Of {
			t.Fatalf("incarnation %d: placed\n%+v, want\n%+v", epoch, got.placed[epoch], sum)
		}
	}
}

// TestCoarserRecordsAfterALoss: what is lost stays told, and totals are those of who read the fine records with the same
// losses.
func TestCoarserRecordsAfterALoss(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		a := write(t, 120, rapid.Bool().Draw(t, "honest"))
		fine := numbered(a.bodies)
		var kept []Numbered
		for i, r := range fine {
			if i == len(fine)-1 || rapid.IntRange(0, 14).Draw(t, "lost") > 0 {
				kept = append(kept, r)
			}
		}
		want := read(t, kept)
		list := kept
		for level := 1; level <= 3; level++ {
			list = coarser(t, level, list, uint64(len(fine)))
			got := read(t, list)
			same(t, want, got)
			if got.lost < want.lost {
				t.Fatalf("%d records were lost, and %d are told", want.lost, got.lost)
			}
		}
	})
}
