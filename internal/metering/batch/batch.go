// Package batch is how ticks of one incarnation travel to the billing service: columns, each as differences, under
// zstd. The sender and the receiver share it, and the hash chain over what was sent.
//
// Before compression a payload is: the number of ticks and of transitions, as unsigned varints; then for the ticks a
// column each of sequence numbers, monotonic clock, wall clock beyond the monotonic one, states (one byte), known
// fields (one byte), and for each field a column of the values where it is known; then for the transitions columns of
// monotonic clock, wall clock beyond it, and states. A column of numbers holds the difference to the number before it
// (the first, to 0), modulo 2^64, as a signed varint. Where there are leaps their number follows, and each of them.
package batch

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/klauspost/compress/zstd"

	"github.com/unkeyed/unkey/go/deploy/metald/internal/metering/usage"
)

// Ticks is what a payload holds.
type Ticks struct {
	Samples []usage.Sample // in order of Seq
	Entered []Entered      // in order of time
	// Leaps stand for many ticks each: what the sender's meter was after the last of them, but for its Limits and Start,
	// which the receiver has. In order of Totals.Next.
	Leaps []usage.Meter
}

// Entered is a transition between two ticks.
type Entered struct {
	At    usage.Time
	State usage.State
}

// Bounds of a payload, so that a hostile one costs no more than an honest one.
const (
	MaxTicks = 50_000
	maxBytes = MaxTicks * (4 + 2*8 + 10*(3+usage.Fields))
)

// Codec writes and reads payloads. It is safe for concurrent use.
type Codec struct {
	enc *zstd.Encoder
	dec *zstd.Decoder
}

// NewCodec returns a codec. The error is a fault of the program.
func NewCodec() (*Codec, error) {
	enc, err := zstd.NewWriter(nil, zstd.WithEncoderConcurrency(1))
	if err != nil {
		return nil, err
	}
	dec, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxMemory(uint64(maxBytes)))
	if err != nil {
		return nil, err
	}
	return &Codec{enc, dec}, nil
}

// Encode writes t.
func (c *Codec) Encode(t Ticks) []byte {
	b := binary.AppendUvarint(nil, uint64(len(t.Samples)))
	b = binary.AppendUvarint(b, uint64(len(t.Entered)))
	b = column(b, t.Samples, func(s usage.Sample) uint64 { return s.Seq })
	b = column(b, t.Samples, func(s usage.Sample) uint64 { return uint64(s.At.Mono) })
	b = column(b, t.Samples, func(s usage.Sample) uint64 { return uint64(s.At.Wall - s.At.Mono) })
	for _, s := range t.Samples {
		b = append(b, byte(s.State))
	}
	for _, s := range t.Samples {
		b = append(b, byte(s.Reading.Known()))
	}
	for f := range usage.Field(usage.Fields) {
		var known []uint64
		for _, s := range t.Samples {
			if v, ok := s.Reading.Value(f); ok {
				known = append(known, v)
			}
		}
		b = column(b, known, func(v uint64) uint64 { return v })
	}
	b = column(b, t.Entered, func(e Entered) uint64 { return uint64(e.At.Mono) })
	b = column(b, t.Entered, func(e Entered) uint64 { return uint64(e.At.Wall - e.At.Mono) })
	for _, e := range t.Entered {
		b = append(b, byte(e.State))
	}
	return c.enc.EncodeAll(leaps(b, t.Leaps), nil)
}

func column[T any](b []byte, rows []T, value func(T) uint64) []byte {
	var last uint64
	for _, row := range rows {
		v := value(row)
		b = binary.AppendVarint(b, int64(v-last))
		last = v
	}
	return b
}

// Decode reads what Encode wrote, and refuses everything else.
func (c *Codec) Decode(payload []byte) (Ticks, error) {
	raw, err := c.dec.DecodeAll(payload, nil)
	if err != nil {
		return Ticks{}, fmt.Errorf("payload: %w", err)
	}
	r := &reader{raw: raw}
	samples, entered := r.count(), r.count()
	if r.err != nil {
		return Ticks{}, r.err
	}
	t := Ticks{Samples: make([]usage.Sample, samples), Entered: make([]Entered, entered)}
	r.samples(t.Samples)
	r.column(len(t.Entered), func(i int, v uint64) { t.Entered[i].At.Mono = int64(v) })
	r.column(len(t.Entered), func(i int, v uint64) { t.Entered[i].At.Wall = int64(v) + t.Entered[i].At.Mono })
	for i := range t.Entered {
		t.Entered[i].State = r.state()
	}
	if r.err == nil && len(r.raw) > 0 {
		t.Leaps = r.leaps()
	}
	if r.err == nil && len(r.raw) > 0 {
		r.err = fmt.Errorf("payload: %d bytes too many", len(r.raw))
	}
	return t, r.err
}

type reader struct {
	raw []byte
	err error
}

var errShort = errors.New("payload: it ends too early")

func (r *reader) samples(list []usage.Sample) {
	r.column(len(list), func(i int, v uint64) { list[i].Seq = v })
	r.column(len(list), func(i int, v uint64) { list[i].At.Mono = int64(v) })
	r.column(len(list), func(i int, v uint64) { list[i].At.Wall = int64(v) + list[i].At.Mono })
	for i := range list {
		list[i].State = r.state()
	}
	known := make([]usage.Set, len(list))
	for i := range known {
		known[i] = r.set()
	}
	for f := range usage.Field(usage.Fields) {
		var rows []int
		for i, set := range known {
			if set.Has(f) {
				rows = append(rows, i)
			}
		}
		r.column(len(rows), func(i int, v uint64) { list[rows[i]].Reading.Put(f, v) })
	}
}

func (r *reader) column(n int, put func(i int, v uint64)) {
	var last uint64
	for i := 0; i < n && r.err == nil; i++ {
		d, size := binary.Varint(r.raw)
		if size <= 0 {
			r.fail(errShort)
			return
		}
		r.raw = r.raw[size:]
		last += uint64(d)
		put(i, last)
	}
}

func (r *reader) count() int {
	n, size := binary.Uvarint(r.raw)
	if size <= 0 {
		r.fail(errShort)
		return 0
	}
	if n > MaxTicks || n > uint64(len(r.raw)) {
		r.fail(fmt.Errorf("payload: %d rows, and at most %d may be", n, MaxTicks))
		return 0
	}
	r.raw = r.raw[size:]
	return int(n)
}

func (r *reader) byte() byte {
	if len(r.raw) == 0 {
		r.fail(errShort)
		return 0
	}
	b := r.raw[0]
	r.raw = r.raw[1:]
	return b
}

func (r *reader) state() usage.State {
	s := usage.State(r.byte())
	if int(s) >= usage.States {
		r.fail(fmt.Errorf("payload: unknown state %d", uint8(s)))
	}
	return s
}

func (r *reader) fail(err error) {
	if r.err == nil {
		r.err = err
	}
}
