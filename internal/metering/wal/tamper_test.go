package wal

import (
	"math/rand/v2"
	"testing"
)

// forger changes the files of a log as somebody would who knows the format, and makes all checksums right.
type forger struct {
	*rand.Rand
	files
	earlier []files
}

func (x forger) any(names []string) string { return names[x.IntN(len(names))] }

// parts takes a segment apart.
func (x forger) parts(name string) (header, []frame) {
	h, err := decodeHeader(x.files[name][:headerSize])
	if err != nil {
		panic(err)
	}
	return h, scan(x.files[name], h.salt).frames
}

// build makes a segment of frames. Parity would give away what was there before, so there is none.
func (x forger) build(name string, h header, frames []frame) {
	out := h.block()
	for _, f := range frames {
		start := len(out)
		out = append(out, f...)
		frame(out[start:]).seal(h.salt)
		out = append(out, make([]byte, frameSize(f.bodyLen())-len(f))...)
	}
	x.files[name] = out
}

func (x forger) edit(f frame) {
	body := f.body()
	body[x.IntN(len(body))] ^= byte(1 + x.IntN(255))
}

// rechain makes a chain of all from a segment on.
func (x forger) rechain(from string) {
	var last *Hash
	for _, name := range x.segments() {
		if name < from {
			continue
		}
		h, frames := x.parts(name)
		if last != nil {
			h.prev = *last
		}
		for _, f := range frames {
			if last != nil {
				f.link(*last)
			}
			hash := f.hash()
			last = &hash
		}
		x.build(name, h, frames)
	}
}

var forgeries = map[string]func(x forger){
	"edit": func(x forger) {
		name := x.any(x.segments())
		h, frames := x.parts(name)
		x.edit(frames[x.IntN(len(frames))])
		x.build(name, h, frames)
	},
	"edit, and a new chain": func(x forger) {
		name := x.any(x.segments())
		h, frames := x.parts(name)
		x.edit(frames[x.IntN(len(frames))])
		x.build(name, h, frames)
		x.rechain(name)
	},
	"delete": func(x forger) {
		name := x.any(x.segments())
		h, frames := x.parts(name)
		at := x.IntN(len(frames))
		n := 1 + x.IntN(min(5, len(frames)-at))
		x.build(name, h, append(frames[:at:at], frames[at+n:]...))
	},
	"delete, and a new chain": func(x forger) {
		name := x.any(x.segments())
		h, frames := x.parts(name)
		at := x.IntN(len(frames))
		x.build(name, h, append(frames[:at:at], frames[at+1:]...))
		x.rechain(name)
	},
	"swap two records": func(x forger) {
		name := x.any(x.segments())
		h, frames := x.parts(name)
		a := x.IntN(len(frames) - 1)
		b := a + 1 + x.IntN(len(frames)-a-1)
		fa, fb := frames[a], frames[b]
		number := fa.seq()
		copy(fa[24:32], fb[24:32])
		for i := range 8 {
			fb[24+i] = byte(number >> (8 * i))
		}
		frames[a], frames[b] = fb, fa
		x.build(name, h, frames)
	},
	"swap two segments": func(x forger) {
		a, b := x.any(x.segments()), x.any(x.segments())
		for a == b {
			b = x.any(x.segments())
		}
		x.files[a], x.files[b] = x.files[b], x.files[a]
	},
	"swap two segments with their numbers": func(x forger) {
		a, b := x.any(x.segments()), x.any(x.segments())
		for a == b {
			b = x.any(x.segments())
		}
		ha, fa := x.parts(a)
		hb, fb := x.parts(b)
		ha.number, hb.number = hb.number, ha.number
		x.build(a, hb, fb)
		x.build(b, ha, fa)
	},
	"delete a segment": func(x forger) { delete(x.files, x.any(x.segments())) },
	"roll a segment back": func(x forger) {
		for {
			was := x.earlier[x.IntN(len(x.earlier)-1)]
			name := x.any(was.segments())
			_, before := forger{x.Rand, was.clone(), nil}.parts(name)
			if _, now := x.parts(name); len(before) < len(now) {
				x.files[name] = was[name]
				return
			}
		}
	},
	"roll everything back": func(x forger) {
		was := x.earlier[x.IntN(len(x.earlier)-1)]
		clear(x.files)
		for name, data := range was {
			x.files[name] = data
		}
	},
	"cut the tail": func(x forger) {
		names := x.segments()
		name := names[len(names)-1]
		h, frames := x.parts(name)
		x.build(name, h, frames[:x.IntN(len(frames))])
	},
}

// TestForgeries: whatever is done to records, segments or the log's end, somebody who kept heads sees it.
func TestForgeries(t *testing.T) {
	rounds := 25
	if soak() {
		rounds = 1000
	}
	whole, earlier, heads := filed(t, 400)
	if r, _ := whole.read(t, heads...); !r.OK() || r.Trusted != len(heads) {
		t.Fatalf("%+v", r)
	}
	for kind, forge := range forgeries {
		for seed := range uint64(rounds) {
			x := forger{rand.New(rand.NewPCG(seed, 1)), whole.clone(), earlier}
			forge(x)
			if r, _ := x.files.read(t, heads...); r.OK() {
				t.Errorf("%s, seed %d: %d records, nothing is told", kind, seed, r.Records)
			}
		}
	}
}

// TestAckRolledBack: an older acknowledgement, or none, does not cover what was removed since.
func TestAckRolledBack(t *testing.T) {
	f, _, _ := filed(t, 400)
	d := f.disk()
	l, err := OpenDir(d, tiny)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if err := l.Ack(100); err != nil {
		t.Fatal(err)
	}
	older := d.files()[ackName]
	if err := l.Ack(300); err != nil {
		t.Fatal(err)
	}
	now := d.files()
	if r, _ := now.read(t); !r.OK() || r.First == 1 || r.Acked != 300 {
		t.Fatalf("%+v", r)
	}
	for _, ack := range [][]byte{older, nil, make([]byte, 2*ackSlot)} {
		now[ackName] = ack
		if r, _ := now.read(t); r.OK() || r.Lost[0].Last != r.First-1 {
			t.Errorf("%+v", r)
		}
	}
}
