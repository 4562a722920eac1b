package record

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/unkeyed/unkey/go/deploy/metald/internal/metering/usage"
)

var (
	errShort    = errors.New("the body ends too early")
	errTrailing = errors.New("bytes follow the end of the body")
	errValue    = errors.New("a value that no encoder writes")
)

// reader takes a body apart. After the first error everything is zero.
type reader struct {
	b   []byte
	err error
}

func (r *reader) fail(err error) {
	if r.err == nil {
		r.err = err
	}
	r.b = nil
}

// end says what was wrong with the body, if anything.
func (r *reader) end() error {
	if r.err == nil && len(r.b) != 0 {
		r.err = errTrailing
	}
	return r.err
}

func (r *reader) version() {
	if v := r.byte(); v != version && r.err == nil {
		r.fail(fmt.Errorf("version %d of the format is not known, only %d", v, version))
	}
}

func (r *reader) byte() byte {
	if len(r.b) == 0 {
		r.fail(errShort)
		return 0
	}
	v := r.b[0]
	r.b = r.b[1:]
	return v
}

func (r *reader) uint() uint64 {
	if len(r.b) > 0 && r.b[0] < 0x80 {
		v := uint64(r.b[0])
		r.b = r.b[1:]
		return v
	}
	v, n := binary.Uvarint(r.b)
	if n <= 0 {
		r.fail(errShort)
		return 0
	}
	r.b = r.b[n:]
	return v
}

func (r *reader) int() int64 { return unzigzag(r.uint()) }

// bytes is good as long as the body is.
func (r *reader) bytes() []byte { return r.take(r.uint()) }

func (r *reader) take(n uint64) []byte {
	if n > uint64(len(r.b)) {
		r.fail(errShort)
		return nil
	}
	v := r.b[:n:n]
	r.b = r.b[n:]
	return v
}

func (r *reader) text() string { return string(r.bytes()) }

func (r *reader) again(before *string) string {
	if n := r.uint(); n > 0 {
		*before = string(r.take(n - 1))
	}
	return *before
}

func (r *reader) set() usage.Set {
	v := usage.Set(r.byte())
	if v&^usage.All != 0 {
		r.fail(errValue)
		return 0
	}
	return v
}

func (r *reader) state() usage.State {
	v := r.byte()
	if int(v) >= usage.States {
		r.fail(errValue)
		return 0
	}
	return usage.State(v)
}

func (r *reader) time(from usage.Time) usage.Time {
	mono := r.int()
	return usage.Time{Mono: from.Mono + mono, Wall: from.Wall + mono + r.int()}
}

func (r *reader) u128() (v usage.U128) {
	for shift := uint(0); ; shift += 7 {
		b := r.byte()
		n := uint64(b & 0x7f)
		if shift > 126 || shift == 126 && n > 3 {
			r.fail(errValue)
			return usage.U128{}
		}
		if shift < 64 {
			v.Lo |= n << shift
			v.Hi |= n >> (64 - shift)
		} else {
			v.Hi |= n << (shift - 64)
		}
		if b < 0x80 {
			return v
		}
	}
}

func (r *reader) reading() (v usage.Reading) {
	known := r.set()
	for f := range usage.Field(usage.Fields) {
		if known.Has(f) {
			v.Put(f, r.uint())
		}
	}
	return v
}

func (r *reader) amount() (a usage.Amount) {
	there := r.uint()
	if there>>usage.Quantities != 0 {
		r.fail(errValue)
	}
	for q := range a.Of {
		if there>>q&1 == 1 {
			a.Of[q] = r.u128()
		}
	}
	a.Measured = r.set()
	a.Incomplete = r.set()
	return a
}

func (r *reader) totals(from usage.Time) (t usage.Totals) {
	t.At = r.time(from)
	t.Next = r.uint()
	t.Amount = r.amount()
	return t
}

func (r *reader) sample(from usage.Time) (s usage.Sample) {
	s.Seq = r.uint()
	s.At = r.time(from)
	s.State = r.state()
	s.Reading = r.reading()
	return s
}

func (r *reader) life(from usage.Time, before *names) (l usage.Life) {
	i := &l.Incarnation
	i.Epoch = r.uint()
	i.Host = r.again(&before.host)
	i.Boot = r.again(&before.boot)
	l.Customer = r.again(&before.customer)
	i.VM = r.text()
	i.StartTicks = r.uint()
	l.Start = r.time(from)
	l.State = r.state()
	l.Baseline = r.reading()
	l.Limits = r.limits()
	return l
}

func (r *reader) limits() (l usage.Limits) {
	l.CPUMilli = r.uint()
	l.MemoryBytes = r.uint()
	l.DiskBytesPerSecond = r.uint()
	l.NetBytesPerSecond = r.uint()
	l.TickNs = r.uint()
	return l
}

func (r *reader) meter(l *usage.Life, from usage.Time) (m usage.Meter) {
	m.Limits, m.Start = l.Limits, l.Start
	m.Totals = r.totals(from)
	m.State = r.state()
	m.Last = r.reading()
	for f := range usage.Field(usage.Fields) {
		if m.Last.Known().Has(f) {
			m.Seen[f] = r.time(m.Totals.At)
		}
	}
	m.Lost = r.uint()
	m.Unknown = r.set()
	return m
}
