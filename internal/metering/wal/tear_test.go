package wal

import (
	"maps"
	"math/rand/v2"
	"slices"
	"testing"
)

// frameSpans are where the last n records of a segment are.
func frameSpans(data []byte, n int) (salt, []span) {
	h, _ := decodeHeader(data[:headerSize])
	var spans []span
	for at := firstFrame; at < len(data); {
		f := h.salt.parseFrame(data[at:])
		if f == nil {
			break
		}
		if !f.parity() {
			spans = append(spans, span{at, at + len(f)})
		}
		at += frameSize(f.bodyLen())
	}
	return h.salt, spans[len(spans)-n:]
}

// unsealed is a log of n records whose process was killed.
func unsealed(t testing.TB, n int) files {
	t.Helper()
	d := newDisk()
	l, err := OpenDir(d, tiny)
	if err != nil {
		t.Fatal(err)
	}
	w := l.newWriter()
	for i := range n {
		if _, err := l.Append(Record{Keyframe: l.NeedsKeyframe(), Body: body(uint64(i + 1))}); err != nil {
			t.Fatal(err)
		}
		w.commit(w.retry)
	}
	return d.files()
}

// TestTornAtEveryByte leaves the log's end at each byte of its last three records, with zeros behind it. It opens, what
// is before is there, and the numbers of what was begun are not used again.
func TestTornAtEveryByte(t *testing.T) {
	const n = 50
	whole := unsealed(t, n)
	names := whole.segments()
	last := names[len(names)-1]
	_, spans := frameSpans(whole[last], 3)
	step := 5
	if soak() {
		step = 1
	}
	for cut := spans[0].from; cut <= spans[2].to; cut += step {
		torn := whole.clone()
		clear(torn[last][cut:])
		left := uint64(n - 3)
		for _, s := range spans {
			if s.to <= cut || len(whole[last][cut:s.to]) > 0 && zeros(whole[last][min(cut, s.to):s.to]) {
				left++
			}
		}
		_, there := torn.read(t)
		if uint64(len(there)) != left {
			t.Fatalf("cut at %d of %v: %d records, and not %d", cut, spans, len(there), left)
		}
		afterTear(t, torn, there, left+1)
	}
}

func zeros(b []byte) bool { return !slices.ContainsFunc(b, func(c byte) bool { return c != 0 }) }

// afterTear opens a log and goes on. The numbers up to begun may have been given out.
func afterTear(t *testing.T, f files, there map[uint64]string, begun uint64) {
	t.Helper()
	d := f.disk()
	l, err := OpenDir(d, tiny)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	w := l.newWriter()
	for range 3 {
		seq, err := l.Append(Record{Keyframe: l.NeedsKeyframe(), Body: body(l.Status().Next)})
		if err != nil || seq < begun {
			t.Fatal(seq, err)
		}
		there[seq] = string(body(seq))
		w.commit(w.retry)
	}
	w.finish()
	r, now := d.files().read(t)
	if !maps.Equal(there, now) {
		t.Fatalf("%d records, and were %d: %+v", len(now), len(there), r)
	}
}

// TestSectorsOfZeros loses each sector of a log in turn. Where no more records than stripes were in it, and no
// parity, all are made again, but for those at the end of a log that was killed.
func TestSectorsOfZeros(t *testing.T) {
	for kind, whole := range map[string]files{"sealed": sealed(t), "killed": unsealed(t, 60)} {
		_, all := whole.read(t)
		for _, name := range whole.segments() {
			for at := 0; at < len(whole[name]); at += sector {
				hurt := whole.clone()
				s := span{at, min(at+sector, len(hurt[name]))}
				clear(hurt[name][s.from:s.to])
				r, there := hurt.read(t, Trusted{Seq: uint64(len(all))})
				safe, parity := spared(whole, map[string][]span{name: {s}})
				for seq, want := range all {
					if got, ok := there[seq]; ok && got != want || !ok && safe[seq] {
						t.Fatalf("%s, %s at %d: record %d: %q, %+v", kind, name, at, seq, got, r)
					}
				}
				if touched := len(all) - len(safe); kind == "sealed" && !parity && touched <= stripes && len(there) != len(all) {
					t.Fatalf("%s at %d: %d of %d records: %+v", name, at, len(there), len(all), r)
				}
			}
		}
	}
}

func sealed(t testing.TB) files {
	f, _, _ := filed(t, 60)
	return f
}

// TestBitFlips flips one bit anywhere in a log. Nothing wrong is read, nothing is lost, and one record is repaired at
// most.
func TestBitFlips(t *testing.T) {
	rounds := 300
	if soak() {
		rounds = 20_000
	}
	whole, _, heads := filed(t, 100)
	names := whole.segments()
	seed := rand.Uint64()
	random := rand.New(rand.NewPCG(seed, 0))
	for range rounds {
		name := names[random.IntN(len(names))]
		at, bit := random.IntN(len(whole[name])), byte(1)<<random.IntN(8)
		whole[name][at] ^= bit
		r, there := whole.read(t, heads...)
		if !r.OK() || r.Records != 100 || len(r.Repaired) > 1 || len(r.Lost) > 0 {
			t.Fatalf("seed %d, %s byte %d bit %#x: %+v", seed, name, at, bit, r)
		}
		for seq, got := range there {
			if got != string(body(seq)) {
				t.Fatalf("seed %d: record %d is %q", seed, seq, got)
			}
		}
		whole[name][at] ^= bit
	}
}
