package store

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"

	"go.etcd.io/bbolt"
	bolterrors "go.etcd.io/bbolt/errors"

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
	if errors.Is(err, bolterrors.ErrTimeout) {
		return nil, fmt.Errorf("open the VM records in %s: another metald has them open; stop it or choose another state directory", path)
	}
	if err != nil {
		return nil, fmt.Errorf("open the VM records in %s: %w", path, err)
	}
	err = db.Update(func(tx *bbolt.Tx) error {
		_, err := tx.CreateBucketIfNotExists(recordsBucket)
		return err
	})
	if err == nil {
		err = syncDir(filepath.Dir(path))
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("prepare the VM records in %s: %w", path, err), db.Close())
	}
	return &Bolt{db: db}, nil
}

// syncDir makes the name of a new file durable: a record in a file that has none after a power cut is lost.
func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// Put saves r under its id.
func (b *Bolt) Put(r Record) error {
	value, err := encode(r)
	if err != nil {
		return err
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

	err := errCutShort
	defer func() { // also where Update panics: the others must not take silence for success
		for _, w := range batch {
			w.done, w.err = true, err
		}
	}()
	err = b.db.Update(func(tx *bbolt.Tx) error { return apply(tx.Bucket(recordsBucket), batch) })
	return err
}

var errCutShort = errors.New("the commit was cut short by a fault in metald; its log says more")

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
			r, err := decode(types.VMID(k), v)
			records = append(records, r)
			return err
		})
	})
	if err != nil {
		return nil, err
	}
	sortBySeq(records)
	return records, nil
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
