package wal

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"
)

// hurt is damage to files: whoever did it knows nothing of their format.
type hurt struct {
	*rand.Rand
	files
	hit map[string][]span // where
}

func (x hurt) place(unit int) (name string, at span) {
	name = x.any(x.segments())
	from := x.IntN(len(x.files[name])/unit) * unit
	return name, span{from, min(from+unit, len(x.files[name]))}
}

func (x hurt) any(names []string) string { return names[x.IntN(len(names))] }

func (x hurt) note(name string, s span) { x.hit[name] = append(x.hit[name], s) }

var damages = map[string]func(x hurt){
	"a page of zeros": func(x hurt) {
		name, s := x.place(4096)
		clear(x.files[name][s.from:s.to])
		x.note(name, s)
	},
	"pages of zeros": func(x hurt) {
		for range 1 + x.IntN(5) {
			name, s := x.place(4096)
			clear(x.files[name][s.from:s.to])
			x.note(name, s)
		}
	},
	"a sector of garbage": func(x hurt) {
		name, s := x.place(sector)
		for i := s.from; i < s.to; i++ {
			x.files[name][i] = byte(x.Uint32())
		}
		x.note(name, s)
	},
	"swapped sectors": func(x hurt) {
		a, sa := x.place(sector)
		b, sb := x.place(sector)
		if sa.to-sa.from != sector || sb.to-sb.from != sector {
			return
		}
		var was [sector]byte
		copy(was[:], x.files[a][sa.from:sa.to])
		copy(x.files[a][sa.from:sa.to], x.files[b][sb.from:sb.to])
		copy(x.files[b][sb.from:sb.to], was[:])
		x.note(a, sa)
		x.note(b, sb)
	},
	"one header": func(x hurt) {
		name := x.any(x.segments())
		clear(x.files[name][x.IntN(2)*secondCopy:][:headerSize])
	},
	"both headers": func(x hurt) { clear(x.files[x.any(x.segments())][:firstFrame]) },
	"all headers": func(x hurt) {
		for _, name := range x.segments() {
			clear(x.files[name][:firstFrame])
		}
	},
	"garbage appended": func(x hurt) {
		name := x.any(x.segments())
		for range 1 + x.IntN(2000) {
			x.files[name] = append(x.files[name], byte(x.Uint32()))
		}
	},
	"a file cut short": func(x hurt) {
		name := x.any(x.segments())
		was := len(x.files[name])
		x.files[name] = x.files[name][:x.IntN(was)]
		x.note(name, span{len(x.files[name]), was})
	},
	"a segment gone": func(x hurt) {
		name := x.any(x.segments())
		x.note(name, span{0, len(x.files[name])})
		delete(x.files, name)
	},
	"a segment twice": func(x hurt) {
		x.files[segmentName(uint64(50+x.IntN(99)))] = slices.Clone(x.files[x.any(x.segments())])
	},
	"a file of zeros": func(x hurt) {
		name := x.any(x.segments())
		clear(x.files[name])
		x.note(name, span{0, len(x.files[name])})
	},
	"an empty file": func(x hurt) { x.files[segmentName(uint64(100+x.IntN(99)))] = nil },
}

// spared are the records that the damage did not touch, and whether it touched what others are made again from.
func spared(whole files, hit map[string][]span) (safe map[uint64]bool, parity bool) {
	safe = map[uint64]bool{}
	for _, name := range whole.segments() {
		data := whole[name]
		h, _ := decodeHeader(data[:headerSize])
		for at := firstFrame; at < len(data); {
			f := h.salt.parseFrame(data[at:])
			if f == nil {
				break
			}
			touched := slices.ContainsFunc(hit[name], func(s span) bool { return s.from < at+len(f) && at < s.to })
			if !touched && !f.parity() {
				safe[f.seq()] = true
			}
			parity = parity || touched && f.parity()
			at += frameSize(f.bodyLen())
		}
	}
	return safe, parity
}

// TestWideDamage: what was not hit is read, what was lost is told by number, and the log opens, goes on with numbers
// that nobody had, and loses nothing more.
func TestWideDamage(t *testing.T) {
	rounds := 8
	if soak() {
		rounds = 1000
	}
	whole, _, _ := filed(t, 400)
	for kind, damage := range damages {
		for seed := range uint64(rounds) {
			x := hurt{rand.New(rand.NewPCG(seed, 2)), whole.clone(), map[string][]span{}}
			damage(x)
			what := fmt.Sprintf("%s, seed %d", kind, seed)
			safe, _ := spared(whole, x.hit)
			there := x.check(t, what, 400, safe)
			goesOn(t, what, x.files, there)
		}
	}
}

// check reads the files, and returns what is there.
func (x hurt) check(t *testing.T, what string, n uint64, safe map[uint64]bool) map[uint64]string {
	t.Helper()
	report, there := x.files.read(t, Trusted{Seq: n})
	for seq := uint64(1); seq <= n; seq++ {
		got, ok := there[seq]
		lost := slices.ContainsFunc(report.Lost, func(l Loss) bool { return l.First <= seq && seq <= l.Last })
		switch {
		case ok && got != string(body(seq)):
			t.Fatalf("%s: record %d is %q", what, seq, got)
		case ok == lost:
			t.Fatalf("%s: record %d: there %t, lost %t: %+v", what, seq, ok, lost, report)
		case !ok && safe[seq]:
			t.Fatalf("%s: record %d was not hit, and is lost: %+v", what, seq, report)
		}
	}
	return there
}

// goesOn opens a log that somebody had read up to record 400.
func goesOn(t *testing.T, what string, f files, there map[uint64]string) {
	t.Helper()
	d := f.disk()
	l, err := OpenDir(d, tiny)
	if err != nil {
		t.Fatalf("%s: %v", what, err)
	}
	defer l.Close()
	l.NewReader(400).Close()
	w := l.newWriter()
	for i := range 30 {
		seq, err := l.Append(Record{Keyframe: i == 0 || l.NeedsKeyframe(), Body: body(l.Status().Next)})
		if err != nil || seq <= 400 {
			t.Fatalf("%s: record %d: %v", what, seq, err)
		}
		there[seq] = string(body(seq))
	}
	w.commit(w.retry)
	if s := l.Status(); s.Durable != s.Next-1 {
		t.Fatalf("%s: %+v", what, s)
	}
	w.finish()
	if _, now := d.files().read(t); !maps.Equal(now, there) {
		for seq := range there {
			if _, ok := now[seq]; !ok {
				t.Errorf("%s: record %d is gone", what, seq)
			}
		}
		t.Fatalf("%s: %d records, and were %d", what, len(now), len(there))
	}
}
