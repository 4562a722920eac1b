package shipper

import (
	"encoding/binary"

	"github.com/unkeyed/unkey/go/deploy/metald/internal/metering/batch"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/metering/usage"
)

// pending is the ticks of a life that no batch has yet, as differences: 600 ticks of a busy VM take some 12 kB so, and a
// thousand VMs no more than a thousand times that.
type pending struct {
	first   uint64 // the first tick that the batch will account for
	n       int
	raw     []byte
	prev    packed
	entered []batch.Entered
	leaps   []usage.Meter
}

// empty says whether there is no tick.
func (p *pending) empty() bool { return p.n == 0 && len(p.leaps) == 0 }

// packed is what the next tick is the difference to.
type packed struct {
	seq    uint64
	mono   int64
	offset int64 // of the wall clock
	values [usage.Fields]uint64
}

// maxEntered is how many transitions a batch has before it is cut.
const maxEntered = 1000

func (p *pending) reset() {
	*p = pending{raw: p.raw[:0], entered: p.entered[:0], leaps: p.leaps[:0]}
}

func (p *pending) add(s usage.Sample) {
	p.n++
	p.raw = binary.AppendUvarint(p.raw, s.Seq-p.prev.seq)
	p.raw = binary.AppendVarint(p.raw, s.At.Mono-p.prev.mono)
	offset := s.At.Wall - s.At.Mono
	p.raw = binary.AppendVarint(p.raw, offset-p.prev.offset)
	p.raw = append(p.raw, byte(s.State), byte(s.Reading.Known()))
	for f := range usage.Field(usage.Fields) {
		if v, ok := s.Reading.Value(f); ok {
			p.raw = binary.AppendVarint(p.raw, int64(v-p.prev.values[f]))
			p.prev.values[f] = v
		}
	}
	p.prev.seq, p.prev.mono, p.prev.offset = s.Seq, s.At.Mono, offset
}

// ticks is what a batch of it has. It is good until the next change.
func (p *pending) ticks() batch.Ticks {
	return batch.Ticks{Samples: p.samples(), Entered: p.entered, Leaps: p.leaps}
}

func (p *pending) samples() []usage.Sample {
	dst := make([]usage.Sample, 0, p.n)
	raw, prev := p.raw, packed{}
	number := func() int64 {
		d, n := binary.Varint(raw)
		raw = raw[n:]
		return d
	}
	for range p.n {
		d, n := binary.Uvarint(raw)
		raw = raw[n:]
		prev.seq += d
		prev.mono += number()
		prev.offset += number()
		s := usage.Sample{Seq: prev.seq, At: usage.Time{Mono: prev.mono, Wall: prev.mono + prev.offset}, State: usage.State(raw[0])}
		known := usage.Set(raw[1])
		raw = raw[2:]
		for f := range usage.Field(usage.Fields) {
			if known.Has(f) {
				prev.values[f] += uint64(number())
				s.Reading.Put(f, prev.values[f])
			}
		}
		dst = append(dst, s)
	}
	return dst
}
