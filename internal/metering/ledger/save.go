package ledger

import (
	"bytes"
	"errors"
	"fmt"

	"go.etcd.io/bbolt"

	"github.com/unkeyed/unkey/go/deploy/metald/internal/metering/usage"
)

// save makes what the book has durable, as one: what was used, what is said of incarnations, and the number of the last
// record that is in it. Only who follows the log calls it.
func (l *Ledger) save() error {
	if l.position == l.state.Position && bytes.Equal(l.hash[:], l.state.Hash) && l.state.Checkpoint > 0 {
		return nil
	}
	next := state{Version: version, Position: l.position, Hash: bytes.Clone(l.hash[:]), Checkpoint: l.state.Checkpoint + 1, At: l.book.at, Last: l.book.last, Low: l.book.low, High: l.book.high}
	err := l.db.Update(func(tx *bbolt.Tx) error {
		for _, a := range l.ended {
			if err := errors.Join(saveEnded(tx, a), saveRows(tx, a)); err != nil {
				return err
			}
		}
		for _, a := range l.book.accounts {
			if err := errors.Join(saveAccount(tx, a), saveRows(tx, a)); err != nil {
				return err
			}
		}
		if err := l.saveMark(tx, &next); err != nil {
			return err
		}
		return putJSON(tx.Bucket(metaBucket), stateKey, next)
	})
	if err != nil {
		return fmt.Errorf("save the ledger: %w", err)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.state, l.book.low = next, next.Low
	clear(l.ended)
	for _, a := range l.book.accounts {
		a.saved = true
		clear(a.placed)
	}
	return nil
}

func saveAccount(tx *bbolt.Tx, a *account) error {
	epoch := a.life.Incarnation.Epoch
	if !a.saved {
		if err := saveLife(tx, a); err != nil {
			return err
		}
	}
	return putJSON(tx.Bucket(metersBucket), number(epoch), savedMeter{a.meter, a.quarantined})
}

func saveEnded(tx *bbolt.Tx, a *account) error {
	if err := saveLife(tx, a); err != nil {
		return err
	}
	return tx.Bucket(metersBucket).Delete(number(a.life.Incarnation.Epoch))
}

func saveLife(tx *bbolt.Tx, a *account) error {
	i := a.life.Incarnation
	return errors.Join(
		putJSON(tx.Bucket(livesBucket), number(i.Epoch), savedLife{a.life, a.end}),
		tx.Bucket(ofVMBucket).Put(named(i.VM, i.Epoch), nil),
		tx.Bucket(ofTenant).Put(named(a.life.Customer, i.Epoch), nil))
}

// saveRows adds what was placed since the file was saved to its rows.
func saveRows(tx *bbolt.Tx, a *account) error {
	hours, ofLife := tx.Bucket(hoursBucket), tx.Bucket(ofLifeBucket)
	epoch := a.life.Incarnation.Epoch
	for hour, r := range a.placed {
		key := pair(hourKey(hour), epoch)
		if old := hours.Get(key); old != nil {
			was, err := readRow(old)
			if err != nil {
				return err
			}
			r = r.plus(was)
		} else if err := ofLife.Put(pair(epoch, hourKey(hour)), nil); err != nil {
			return err
		}
		if err := hours.Put(key, r.append(nil)); err != nil {
			return err
		}
	}
	return nil
}

// load reads the accounts of those that live.
func (l *Ledger) load() error {
	return l.db.View(func(tx *bbolt.Tx) error {
		var err error
		if l.state, err = readState(tx); err != nil {
			return err
		}
		if l.state.Checkpoint > 0 {
			l.book.low, l.book.high = l.state.Low, l.state.High
		}
		l.book.at, l.book.last, l.position = l.state.At, l.state.Last, l.state.Position
		copy(l.hash[:], l.state.Hash)
		return tx.Bucket(metersBucket).ForEach(func(k, v []byte) error {
			life, meter, err := readAccount(tx, head(k), v)
			if err != nil {
				return err
			}
			a := l.book.put(life, meter.Meter, meter.Quarantined)
			a.saved = true
			l.byVM[life.Incarnation.VM] = a
			return nil
		})
	})
}

// place lays a span over the hours of an account.
func place(a *account, s usage.Span) {
	if a.placed == nil {
		a.placed = map[int64]row{}
	}
	usage.Split(s, usage.Hour, func(start int64, part usage.Amount) {
		a.placed[start/1e9] = a.placed[start/1e9].plus(row{Amount: part})
	})
}
