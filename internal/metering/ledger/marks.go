package ledger

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"math"

	"github.com/klauspost/compress/zstd"
	"go.etcd.io/bbolt"

	"github.com/unkeyed/unkey/go/deploy/metald/internal/metering/usage"
)

// mark is the state of all meters after a record: from there on the log can be read again.
type mark struct {
	position uint64
	wall     int64 // ns of the wall clock, at the mark
	low      int64 // the earliest that it was since the mark before
	high     int64 // the latest that it ever was: nothing that was placed before the mark lies after it
	meters   []byte
}

// saveMark adds a mark, if the last one is old enough, and removes those that are too old to be of use.
func (l *Ledger) saveMark(tx *bbolt.Tx, s *state) error {
	marks := tx.Bucket(marksBucket)
	last, _ := lastMark(tx, math.MaxInt64)
	if last != nil && s.At.Wall < last.wall+int64(l.cfg.MarkEvery) && s.At.Wall >= last.wall {
		return nil
	}
	wall := int64(math.MinInt64)
	if s.Position > 0 {
		wall = s.At.Wall
	}
	meters := map[uint64]savedMeter{}
	for epoch, a := range l.book.accounts {
		meters[epoch] = savedMeter{a.meter, a.quarantined}
	}
	text, err := json.Marshal(meters)
	if err != nil {
		return err
	}
	var value []byte
	for _, n := range []int64{wall, s.Low, s.High} {
		value = binary.BigEndian.AppendUint64(value, uint64(n))
	}
	s.Low = math.MaxInt64
	if err := marks.Put(number(s.Position), l.zip.EncodeAll(text, value)); err != nil {
		return err
	}
	return l.forgetMarks(tx, wall)
}

// forgetMarks removes marks so old that the log need not have what follows, but for the newest of them.
func (l *Ledger) forgetMarks(tx *bbolt.Tx, now int64) error {
	newest, err := lastMark(tx, now-int64(l.cfg.Retention))
	if newest == nil || err != nil {
		return err
	}
	c := tx.Bucket(marksBucket).Cursor()
	for k, _ := c.First(); k != nil && head(k) < newest.position; k, _ = c.First() {
		if err := tx.Bucket(marksBucket).Delete(k); err != nil {
			return err
		}
	}
	return nil
}

// lastMark returns the last mark at which the wall clock was not after wall; nil if there is none.
func lastMark(tx *bbolt.Tx, wall int64) (*mark, error) {
	return findMark(tx, func(m *mark) bool { return m.wall <= wall })
}

// marksFor returns the mark from which on the log is to be read for what lies in [start, end), ns of the wall clock; nil
// if there is none. At no record after until was the clock before end, whoever set it.
func (v *view) marksFor(start, end int64) (from *mark, until uint64, err error) {
	if until = v.position; v.low >= end {
		last, err := findMark(v.tx, func(m *mark) bool { return m.low < end })
		if err != nil {
			return nil, 0, err
		}
		if until = 0; last != nil {
			until = last.position
		}
	}
	from, err = findMark(v.tx, func(m *mark) bool { return m.high <= start })
	if from == nil && err == nil { // the clock was once far ahead
		from, err = lastMark(v.tx, start)
	}
	return from, until, err
}

// findMark returns the last mark that is as it should be; nil if there is none.
func findMark(tx *bbolt.Tx, is func(*mark) bool) (*mark, error) {
	c := tx.Bucket(marksBucket).Cursor()
	for k, v := c.Last(); k != nil; k, v = c.Prev() {
		m, err := readMark(k, v)
		if err != nil {
			return nil, err
		}
		if is(m) {
			return m, nil
		}
	}
	return nil, nil
}

func readMark(k, v []byte) (*mark, error) {
	if len(v) < 24 {
		return nil, errors.New("the ledger is damaged: a mark is too short")
	}
	number := func(at int) int64 { return int64(binary.BigEndian.Uint64(v[at:])) }
	return &mark{position: head(k), wall: number(0), low: number(8), high: number(16), meters: v[24:]}, nil
}

// accounts puts those of the mark into a book that it wants.
func (m *mark) accounts(tx *bbolt.Tx, unzip *zstd.Decoder, b *book) error {
	text, err := unzip.DecodeAll(m.meters, nil)
	meters := map[uint64]savedMeter{}
	if err == nil {
		err = json.Unmarshal(text, &meters)
	}
	if err != nil {
		return fmt.Errorf("the ledger is damaged: mark %d: %w", m.position, err)
	}
	for epoch, saved := range meters {
		life, err := readLife(tx, epoch)
		if err != nil {
			return err
		}
		if b.wants(life.Life) {
			b.put(life.Life, saved.Meter, saved.Quarantined)
		}
	}
	return nil
}

func readAccount(tx *bbolt.Tx, epoch uint64, value []byte) (usage.Life, savedMeter, error) {
	life, err := readLife(tx, epoch)
	var meter savedMeter
	if err == nil {
		err = json.Unmarshal(value, &meter)
	}
	if err != nil {
		return usage.Life{}, meter, fmt.Errorf("the ledger is damaged: meter %d: %w", epoch, err)
	}
	return life.Life, meter, nil
}
