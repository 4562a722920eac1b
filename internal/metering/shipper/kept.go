package shipper

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"go.etcd.io/bbolt"

	"github.com/unkeyed/unkey/go/deploy/metald/internal/metering/usage"
)

// kept is the file of what was acknowledged.
type kept struct{ db *bbolt.DB }

// Buckets. Keys are epochs, big endian; of refused requests, the epoch and the first tick.
const (
	livesBucket   = "lives"   // keptLife
	doneBucket    = "done"    // number of the record that ended the life
	endedBucket   = "ended"   // how it ended, for a receiver that loses that
	refusedBucket = "refused" // requests that the receiver refuses for good, as they were sent
	metaBucket    = "meta"
)

// Keys of the bucket meta.
const (
	posKey    = "position" // the last record that was read
	keyKey    = "key"      // the receiver's public key
	heldBytes = "refused bytes"
)

// maxRefused bounds the requests that are kept as evidence, in bytes. Beyond it they are counted and logged only.
const maxRefused = 64 << 20

// maxEnded is how many ends are kept: a day of a host on which lives begin every ten seconds.
const maxEnded = 10_000

// keptLife is a life and where it is.
type keptLife struct {
	Life  usage.Life
	Acked mark
}

func openKept(path string) (*kept, error) {
	db, err := bbolt.Open(path, 0o600, &bbolt.Options{Timeout: time.Second, NoFreelistSync: true, FreelistType: bbolt.FreelistMapType})
	if err != nil {
		return nil, fmt.Errorf("open what the billing service acknowledged, %s: %w", path, err)
	}
	err = db.Update(func(tx *bbolt.Tx) error {
		for _, name := range []string{livesBucket, doneBucket, endedBucket, refusedBucket, metaBucket} {
			if _, err := tx.CreateBucketIfNotExists([]byte(name)); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return nil, errors.Join(fmt.Errorf("prepare %s: %w", path, err), db.Close())
	}
	return &kept{db}, nil
}

func (k *kept) close() error { return k.db.Close() }

func number(n uint64) []byte { return binary.BigEndian.AppendUint64(nil, n) }

func parseNumber(b []byte) uint64 {
	if len(b) != 8 {
		return 0
	}
	return binary.BigEndian.Uint64(b)
}

// load reads everything: the lives, the ends of those that are done with, by epoch, and the position.
func (k *kept) load() (lives []keptLife, done map[uint64]uint64, pos uint64, err error) {
	done = map[uint64]uint64{}
	err = k.db.View(func(tx *bbolt.Tx) error {
		pos = parseNumber(tx.Bucket([]byte(metaBucket)).Get([]byte(posKey)))
		err := tx.Bucket([]byte(doneBucket)).ForEach(func(epoch, at []byte) error {
			done[parseNumber(epoch)] = parseNumber(at)
			return nil
		})
		if err != nil {
			return err
		}
		return tx.Bucket([]byte(livesBucket)).ForEach(func(epoch, text []byte) error {
			var l keptLife
			if err := json.Unmarshal(text, &l); err != nil {
				return fmt.Errorf("life %d: %w", parseNumber(epoch), err)
			}
			lives = append(lives, l)
			return nil
		})
	})
	if err != nil {
		err = fmt.Errorf("read %s: %w", k.db.Path(), err)
	}
	return lives, done, pos, err
}

// change is what became different since the last one.
type change struct {
	lives     []keptLife
	done      map[uint64]uint64
	ended     []usage.End
	forgotten []uint64 // of done: the log has nothing of them any more
	pos       uint64
}

func (k *kept) save(c change) error {
	err := k.db.Update(func(tx *bbolt.Tx) error {
		lives, done := tx.Bucket([]byte(livesBucket)), tx.Bucket([]byte(doneBucket))
		for _, l := range c.lives {
			text, err := json.Marshal(l)
			if err != nil {
				return err
			}
			if err := lives.Put(number(l.Life.Incarnation.Epoch), text); err != nil {
				return err
			}
		}
		if err := keepEnded(tx.Bucket([]byte(endedBucket)), c.ended); err != nil {
			return err
		}
		for epoch, at := range c.done {
			if err := errors.Join(lives.Delete(number(epoch)), done.Put(number(epoch), number(at))); err != nil {
				return err
			}
		}
		for _, epoch := range c.forgotten {
			if err := done.Delete(number(epoch)); err != nil {
				return err
			}
		}
		return tx.Bucket([]byte(metaBucket)).Put([]byte(posKey), number(c.pos))
	})
	if err != nil {
		return fmt.Errorf("keep what the billing service acknowledged: %w", err)
	}
	return nil
}

// keepEnded keeps ends in place of the oldest.
func keepEnded(bucket *bbolt.Bucket, list []usage.End) error {
	for i := range list {
		text, err := json.Marshal(&list[i])
		if err != nil {
			return err
		}
		if err := bucket.Put(number(list[i].Life.Incarnation.Epoch), text); err != nil {
			return err
		}
	}
	if len(list) == 0 {
		return nil
	}
	cursor, beyond := bucket.Cursor(), bucket.Stats().KeyN-maxEnded
	for key, _ := cursor.First(); key != nil && beyond > 0; key, _ = cursor.Next() {
		if err := cursor.Delete(); err != nil {
			return err
		}
		beyond--
	}
	return nil
}

// ended returns how lives ended for which want says so.
func (k *kept) ended(want func(*usage.End) bool) (list []usage.End, err error) {
	err = k.db.View(func(tx *bbolt.Tx) error {
		return tx.Bucket([]byte(endedBucket)).ForEach(func(_, text []byte) error {
			var e usage.End
			if err := json.Unmarshal(text, &e); err != nil {
				return err
			}
			if want(&e) {
				list = append(list, e)
			}
			return nil
		})
	})
	return list, err
}

// refuse keeps a request as evidence, and returns whether there was room.
func (k *kept) refuse(epoch, first uint64, request []byte) (ok bool, err error) {
	err = k.db.Update(func(tx *bbolt.Tx) error {
		meta, refused := tx.Bucket([]byte(metaBucket)), tx.Bucket([]byte(refusedBucket))
		held := parseNumber(meta.Get([]byte(heldBytes))) + uint64(len(request))
		if ok = held <= maxRefused; !ok {
			return nil
		}
		return errors.Join(refused.Put(append(number(epoch), number(first)...), request), meta.Put([]byte(heldBytes), number(held)))
	})
	return ok, err
}

// key returns the receiver's public key that was seen first; nil if none was.
func (k *kept) key() (key []byte, err error) {
	err = k.db.View(func(tx *bbolt.Tx) error {
		key = append(key, tx.Bucket([]byte(metaBucket)).Get([]byte(keyKey))...)
		return nil
	})
	return key, err
}

func (k *kept) setKey(key []byte) error {
	return k.db.Update(func(tx *bbolt.Tx) error { return tx.Bucket([]byte(metaBucket)).Put([]byte(keyKey), key) })
}
