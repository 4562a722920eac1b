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
	wall     int64 // ns; nothing that was placed before the mark lies after it
	meters   []byte
}

// saveMark adds a mark, if the last one is old enough, and removes those that are too old to be of use.
func (l *Ledger) saveMark(tx *bbolt.Tx, s state) error {
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
		wall = max(wall, a.meter.Totals.At.Wall)
	}
	text, err := json.Marshal(meters)
	if err != nil {
		return err
	}
	value := binary.BigEndian.AppendUint64(nil, uint64(wall))
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

// lastMark returns the last mark before which nothing lies after wall; nil if there is none.
func lastMark(tx *bbolt.Tx, wall int64) (*mark, error) {
	c := tx.Bucket(marksBucket).Cursor()
	for k, v := c.Last(); k != nil; k, v = c.Prev() {
		m, err := readMark(k, v)
		if err != nil {
			return nil, err
		}
		if m.wall <= wall {
			return m, nil
		}
	}
	return nil, nil
}

func readMark(k, v []byte) (*mark, error) {
	if len(v) < 8 {
		return nil, errors.New("the ledger is damaged: a mark is too short")
	}
	return &mark{head(k), int64(binary.BigEndian.Uint64(v)), v[8:]}, nil
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
