package wal

import (
	"iter"
	"testing"
)

// FuzzFiles opens, reads and goes on with a log in which a file is anything.
func FuzzFiles(f *testing.F) {
	whole := unsealed(f, 20)
	for _, name := range whole.segments() {
		f.Add(whole[name], uint8(segmentNumber(name)), false)
	}
	f.Add([]byte{}, uint8(3), false)
	f.Add(make([]byte, 2*ackSlot), uint8(0), true)
	f.Fuzz(func(t *testing.T, data []byte, number uint8, resum bool) {
		files := whole.clone()
		name := segmentName(uint64(number))
		if number == 0 {
			name = ackName
		}
		files[name] = data
		if resum && number > 0 {
			rightSums(files[name], uint64(number))
		}
		files.read(t)
		d := files.disk()
		opt := tiny
		opt.Thin = oneOfAll
		l, err := OpenDir(d, opt)
		if err != nil && len(data) >= headerSize {
			return // of another version
		}
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		w := l.newWriter()
		seq, err := l.Append(Record{Keyframe: true, Body: body(1)})
		if err != nil {
			t.Fatal(err)
		}
		w.commit(w.retry)
		if l.durable != seq {
			t.Fatal(l.Status())
		}
		l.compactOne()
		w.finish()
	})
}

// oneOfAll makes one record of a segment's, whatever they are.
func oneOfAll(_ int, records iter.Seq[Entry], emit func(Record) error) error {
	var first, last uint64
	for e := range records {
		from, to := e.First, e.Seq
		if e.Lost != nil {
			from, to = e.Lost.First, e.Lost.Last
		}
		if first == 0 {
			first = from
		}
		last = to
	}
	return emit(Record{First: first, Seq: last, Keyframe: true})
}

// rightSums makes the checksums of a header and of the frames behind it right, so that what is in them is looked at.
func rightSums(data []byte, number uint64) {
	if len(data) < firstFrame+frameHeader {
		return
	}
	h := header{number: number, salt: newSalt(), first: uint64(data[24]), level: int(data[12] % 5), last: uint64(data[32]), finals: data[14]&1 != 0}
	h.encode(data[:headerSize])
	for at := firstFrame; at+frameHeader <= len(data); {
		n := frame(data[at:]).bodyLen()
		if n > len(data)-at-frameHeader {
			return
		}
		frame(data[at : at+frameHeader+n]).seal(h.salt)
		at += frameSize(n)
	}
}
