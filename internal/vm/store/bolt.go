package store

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"go.etcd.io/bbolt"

	"github.com/unkeyed/unkey/go/deploy/metald/internal/backend/types"
)

var recordsBucket = []byte("vms")

// Bolt is a Store in one bbolt file. Writers that come while a commit is under way share the next one.
type Bolt struct {
	db *bbolt.DB

	commitMu sync.Mutex // held through a commit

	mu      sync.Mutex
	pending []*write
}

type write struct {
	id    types.VMID
	seq   uint64
	value []byte // nil deletes
	done  bool
	err   error
}

// OpenBolt opens or makes the file at path, mode 0600. Another process that has it open is an error after a second.
func OpenBolt(path string) (*Bolt, error) {
	db, err := bbolt.Open(path, 0o600, &bbolt.Options{
		Timeout:        time.Second,
		NoFreelistSync: true, // rebuilt on open; halves what a commit writes
		FreelistType:   bbolt.FreelistMapType,
	})
	if err != nil {
		return nil, fmt.Errorf("open the VM records in %s: %w", path, err)
	}
	err = db.Update(func(tx *bbolt.Tx) error {
		_, err := tx.CreateBucketIfNotExists(recordsBucket)
		return err
	})
	if err != nil {
		return nil, errors.Join(fmt.Errorf("prepare the VM records in %s: %w", path, err), db.Close())
	}
	return &Bolt{db: db}, nil
}

// Put saves r under its id.
func (b *Bolt) Put(r Record) error {
	r.Version = Version
	value, err := json.Marshal(r)
	if err != nil {
		return fmt.Errorf("save %s: %w", r.ID, err)
	}
	if err := b.commit(&write{id: r.ID, seq: r.Seq, value: value}); err != nil {
		return fmt.Errorf("save %s: %w", r.ID, err)
	}
	return nil
}

// Delete removes the record of id; one that is not there is no error.
func (b *Bolt) Delete(id types.VMID) error {
	if err := b.commit(&write{id: id}); err != nil {
		return fmt.Errorf("remove the record of %s: %w", id, err)
	}
	return nil
}

// commit makes w durable. Whoever gets the commit lock first commits for all that wait.
func (b *Bolt) commit(w *write) error {
	b.mu.Lock()
	b.pending = append(b.pending, w)
	b.mu.Unlock()

	b.commitMu.Lock()
	defer b.commitMu.Unlock()
	if w.done {
		return w.err
	}
	b.mu.Lock()
	batch := b.pending
	b.pending = nil
	b.mu.Unlock()

	err := b.db.Update(func(tx *bbolt.Tx) error { return apply(tx.Bucket(recordsBucket), batch) })
	for _, w := range batch {
		w.done, w.err = true, err
	}
	return w.err
}

func apply(bucket *bbolt.Bucket, batch []*write) error {
	for _, w := range batch {
		if w.value == nil {
			if err := bucket.Delete([]byte(w.id)); err != nil {
				return err
			}
			continue
		}
		if err := bucket.Put([]byte(w.id), w.value); err != nil {
			return err
		}
		if w.seq > bucket.Sequence() {
			if err := bucket.SetSequence(w.seq); err != nil {
				return err
			}
		}
	}
	return nil
}

// All returns every record, ordered by Seq. One that cannot be read is an error that names it: starting
// without it would lose a VM.
func (b *Bolt) All() ([]Record, error) {
	var records []Record
	err := b.db.View(func(tx *bbolt.Tx) error {
		return tx.Bucket(recordsBucket).ForEach(func(k, v []byte) error {
			var r Record
			if err := json.Unmarshal(v, &r); err != nil {
				return fmt.Errorf("the record of %s: %w", k, err)
			}
			if r.Version != Version {
				return fmt.Errorf("the record of %s has version %d; this metald knows version %d", k, r.Version, Version)
			}
			records = append(records, r)
			return nil
		})
	})
	sortBySeq(records)
	return records, err
}

// LastSeq returns the largest Seq that was ever put.
func (b *Bolt) LastSeq() (seq uint64, err error) {
	err = b.db.View(func(tx *bbolt.Tx) error {
		seq = tx.Bucket(recordsBucket).Sequence()
		return nil
	})
	return seq, err
}

// Close closes the file.
func (b *Bolt) Close() error { return b.db.Close() }

func sortBySeq(records []Record) {
	slices.SortFunc(records, func(a, b Record) int { return cmp.Compare(a.Seq, b.Seq) })
}
