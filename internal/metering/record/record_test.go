package record

import (
	"slices"
	"testing"

	"pgregory.net/rapid"

	"github.com/unkeyed/unkey/go/deploy/metald/internal/metering/usage"
)

// Thin is no part of what an Encoder writes.
func (e *events) Thin(epoch uint64, l usage.Leap) {
	e.list = append(e.list, event{what: "thin", epoch: epoch, leap: l})
}

func TestWhatIsWrittenIsRead(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		a := write(t, 60, false)
		var d Decoder
		for i, b := range a.bodies {
			var got events
			if err := d.Decode(b.typ, b.bytes, &got); err != nil {
				t.Fatalf("record %d of type %d: %v", i, b.typ, err)
			}
			if !slices.Equal(got.list, a.want[i]) {
				t.Fatalf("record %d of type %d:\n%+v, want\n%+v", i, b.typ, got.list, a.want[i])
			}
		}
	})
}

// TestALossCostsWhatIsLost: records are missing anywhere. What is told is right, all that can be decoded alone is told,
// and a keyframe has everything again.
func TestALossCostsWhatIsLost(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		a := write(t, 60, false)
		var d Decoder
		synced := false
		for i, b := range a.bodies {
			if rapid.IntRange(0, 9).Draw(t, "lost") == 0 {
				d.Lost()
				synced = false
				continue
			}
			var got events
			if err := d.Decode(b.typ, b.bytes, &got); err != nil {
				t.Fatalf("record %d of type %d: %v", i, b.typ, err)
			}
			synced = synced || b.typ == TypeKeyframe
			want := a.want[i]
			if (b.typ == TypeTick || b.typ == TypeEnter) && !synced {
				want = nil
			}
			if !slices.Equal(got.list, want) {
				t.Fatalf("record %d of type %d:\n%+v, want\n%+v", i, b.typ, got.list, want)
			}
		}
	})
}

func TestTrailingBytesAndUnknownVersionsAreRefused(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		a := write(t, 20, false)
		var d Decoder
		for i, b := range a.bodies {
			got := &events{}
			other := append([]byte{b.bytes[0] + 1}, b.bytes[1:]...)
			short := b.bytes[:rapid.IntRange(0, len(b.bytes)-1).Draw(t, "cut")]
			if b.typ != TypeTick && (d.copy().Decode(b.typ, short, got) == nil || len(got.list) > 0) {
				t.Fatalf("%d of %d bytes of a record of type %d were taken: %v", len(short), len(b.bytes), b.typ, got.list)
			}
			if b.typ != TypeTick && (d.copy().Decode(b.typ, append(slices.Clone(b.bytes), 0), got) == nil || len(got.list) > 0) {
				t.Fatalf("a byte behind a record of type %d was taken", b.typ)
			}
			if d.copy().Decode(b.typ, other, got) == nil || len(got.list) > 0 {
				t.Fatalf("another version of type %d was taken", b.typ)
			}
			if err := d.Decode(b.typ, b.bytes, got); err != nil {
				t.Fatalf("record %d: %v", i, err)
			}
		}
	})
}

// copy is a decoder that knows the same.
func (d *Decoder) copy() *Decoder {
	c := &Decoder{at: d.at, whole: d.whole, ticked: d.ticked}
	for _, en := range d.table {
		e := *en
		c.table = append(c.table, &e)
	}
	return c
}
