package record

import (
	"math/rand/v2"
	"testing"

	"pgregory.net/rapid"

	"github.com/unkeyed/unkey/go/deploy/metald/internal/metering/usage"
)

// prefix is a decoder that knows a table of three, one of which was read.
func prefix(t testing.TB) (*Decoder, *Encoder, usage.Time) {
	var e Encoder
	at := usage.Time{Mono: 1e12, Wall: 18e17}
	for epoch := range uint64(3) {
		e.Begin(nil, benchLife(epoch+1))
	}
	e.Tick(nil, at, 0, []Line{{2, usage.Reading{}.With(usage.CPU, 1<<40).With(usage.Resident, 1<<28)}})
	var d Decoder
	if err := d.Decode(TypeKeyframe, e.Keyframe(nil, at), &events{}); err != nil {
		t.Fatal(err)
	}
	return &d, &e, at
}

// seeds are a body of each type.
func seeds(t testing.TB) []body {
	d, e, at := prefix(t)
	l, m := e.Account(2)
	a := usage.Account{Life: *l, Meter: *m}
	before := *m
	end, _ := a.Finish(usage.Sample{Seq: 1, At: usage.Time{Mono: at.Mono + 7, Wall: at.Wall + 9}, State: usage.Stopped}, "guest-shutdown")
	leaps := []leap{{1, d.table[0].Meter, a.Meter}, {2, before, before}}
	leaps[0].after = expect(leaps[0].before, end.Last.At, 9)
	leaps[1].after.Enter(end.Last.At, usage.Paused, nil)
	leaps[1].after.Add(usage.Sample{Seq: 9, At: end.Last.At, State: usage.Paused, Reading: usage.Reading{}.With(usage.CPU, 7)}, nil, nil)
	var w writer
	w.thin(end.Last.At, 9, true, leaps)
	return []body{
		{TypeKeyframe, e.Keyframe(nil, at)},
		{TypeTick, e.Tick(nil, usage.Time{Mono: at.Mono + interval, Wall: at.Wall + interval}, 2, []Line{{1, usage.Reading{}.With(usage.CPU, 5)}, {2, usage.Reading{}.With(usage.Resident, 4097)}})},
		{TypeBegin, e.Begin(nil, benchLife(9))},
		{TypeEnter, e.Enter(nil, 2, at, usage.Paused)},
		{TypeEnd, e.End(nil, end)},
		{TypeThin, w.b},
		{TypeSigned, e.Signed(nil, Signature{Record: 7, PublicKey: []byte("key"), Signature: []byte("word")})},
		{TypeLost, []byte{version, 5}},
	}
}

// FuzzDecode: no body makes the decoder panic, give a sink something of a body that it refuses, or remember more than a
// few times what it was given.
func FuzzDecode(f *testing.F) {
	for _, b := range seeds(f) {
		f.Add(b.typ, b.bytes)
		f.Add(b.typ, b.bytes[:len(b.bytes)-1])
	}
	f.Fuzz(func(t *testing.T, typ byte, data []byte) {
		d, _, _ := prefix(t)
		for range 2 { // the second one meets what the first has left
			var got events
			err := d.Decode(typ, data, &got)
			if err != nil && len(got.list) > 0 {
				t.Fatalf("%v, and the sink got %+v", err, got.list)
			}
			if most := 4 + len(data)/lifeBytes; len(d.table) > most || cap(d.open) > 8+2*most || cap(d.rows) > 8+2*most || cap(d.leaps) > 8+2*most {
				t.Fatalf("%d bytes made a table of %d, %d, %d, %d", len(data), len(d.table), cap(d.open), cap(d.rows), cap(d.leaps))
			}
			if err == nil {
				d.checkOrder(t)
			}
		}
	})
}

// lifeBytes is the least that a keyframe has of an incarnation.
const lifeBytes = 40

func (d *Decoder) checkOrder(t *testing.T) {
	for i := 1; i < len(d.table); i++ {
		if d.table[i-1].Life.Incarnation.Epoch >= d.table[i].Life.Incarnation.Epoch {
			t.Fatal("the table is out of order")
		}
	}
}

// TestAHostileBodyChangesNothing: what is refused leaves the decoder as if it was lost, and the next keyframe mends it.
func TestAHostileBodyChangesNothing(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		a := write(t, 40, false)
		r := rand.New(rand.NewPCG(rapid.Uint64().Draw(t, "seed"), 1))
		var d Decoder
		synced := true
		for i, b := range a.bodies {
			var got events
			if rapid.IntRange(0, 5).Draw(t, "hostile") == 0 {
				bad := append([]byte(nil), b.bytes...)
				bad[0] = version + 1 + byte(r.IntN(200))
				if d.Decode(b.typ, bad, &got) == nil || len(got.list) > 0 {
					t.Fatal("a body of another version was taken")
				}
				synced = false
				continue
			}
			if err := d.Decode(b.typ, b.bytes, &got); err != nil {
				t.Fatal(err)
			}
			synced = synced || b.typ == TypeKeyframe
			if !synced && (b.typ == TypeTick || b.typ == TypeEnter) != (len(got.list) == 0) {
				t.Fatalf("record %d of type %d after a loss: %+v", i, b.typ, got.list)
			}
		}
	})
}

// TestThinRecordsNeedAKeyframe: behind ticks the meters that they are coded against are not at hand.
func TestThinRecordsNeedAKeyframe(t *testing.T) {
	d, e, at := prefix(t)
	all := seeds(t)
	var got events
	if err := d.Decode(TypeThin, all[TypeThin-1].bytes, &got); err != nil || len(got.list) != 3 {
		t.Fatal(err, got.list)
	}
	if d.Decode(TypeTick, e.Tick(nil, at, 0, nil), &got) != nil || d.Decode(TypeThin, all[TypeThin-1].bytes, &events{}) == nil {
		t.Error("a thin record behind a tick was taken")
	}
}

// TestDifferencesOfAnySize: there is one for any two values of any field.
func TestDifferencesOfAnySize(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		bits := rapid.IntRange(0, 64)
		was := rapid.Uint64().Draw(t, "was") >> bits.Draw(t, "shift")
		is := ^(rapid.Uint64().Draw(t, "is") >> bits.Draw(t, "shift"))
		for f := range usage.Field(usage.Fields) {
			var w writer
			w.diff(f, is-was)
			r := reader{b: w.b}
			if got := was + r.diff(f); got != is || r.end() != nil {
				t.Fatalf("%s: from %d to %d was read as %d, %v", f, was, is, got, r.end())
			}
		}
		a, b := usage.U128{Hi: was, Lo: is}, usage.U128{Hi: is, Lo: was}
		var w writer
		w.diff128(a, b)
		w.u128(a)
		r := reader{b: w.b}
		if got, again := r.diff128(a), r.u128(); got != b || again != a || r.end() != nil {
			t.Fatalf("%v and %v were read as %v and %v, %v", b, a, got, again, r.end())
		}
	})
}
