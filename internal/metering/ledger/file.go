package ledger

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"go.etcd.io/bbolt"
	bolterrors "go.etcd.io/bbolt/errors"

	"github.com/unkeyed/unkey/go/deploy/metald/internal/metering/usage"
)

// version is that of what the file holds.
const version = 1

// Buckets of the file. Numbers in keys are 8 bytes, big endian, so that keys are in their order.
var (
	metaBucket   = []byte("meta")
	livesBucket  = []byte("lives")     // epoch → savedLife
	metersBucket = []byte("meters")    // epoch → savedMeter, of those that live
	hoursBucket  = []byte("hours")     // hour, epoch → row; hours by their unix second
	ofLifeBucket = []byte("hours-of")  // epoch, hour → nothing: the hours of an incarnation
	ofVMBucket   = []byte("of-vm")     // VM, 0, epoch → nothing
	ofTenant     = []byte("of-tenant") // tenant, 0, epoch → nothing
	marksBucket  = []byte("marks")     // number of a record → mark
	stateKey     = []byte("state")
)

// state is which log the file is a view of, and up to where.
type state struct {
	Version    int
	Position   uint64 // number of the last record that is in the file
	Hash       []byte // of that record; zeros where it could not be read
	Checkpoint uint64 // counts the times that the file was saved
	At         usage.Time
	Last       uint64 // the highest epoch
	Low, High  int64  // of the wall clock: see book
}

// savedLife is what is kept of an incarnation for good.
type savedLife struct {
	Life usage.Life
	End  *ending `json:",omitempty"`
}

// savedMeter is what is kept of one while it lives.
type savedMeter struct {
	Meter       usage.Meter
	Quarantined uint64 `json:",omitempty"`
}

// mapBytes is the address space that is set aside for the file: a file that outgrew it would have to wait for its
// readers.
const mapBytes = 1 << 36

func openFile(path string, readOnly bool) (*bbolt.DB, error) {
	db, err := bbolt.Open(path, 0o600, &bbolt.Options{
		Timeout:         time.Second,
		ReadOnly:        readOnly,
		NoFreelistSync:  true, // rebuilt on open; halves what a commit writes
		FreelistType:    bbolt.FreelistMapType,
		InitialMmapSize: mapBytes,
	})
	if errors.Is(err, bolterrors.ErrTimeout) {
		return nil, fmt.Errorf("open the ledger %s: %w", path, ErrLocked)
	}
	if err != nil {
		return nil, fmt.Errorf("open the ledger %s: %w", path, err)
	}
	if readOnly {
		return db, nil
	}
	err = db.Update(func(tx *bbolt.Tx) error {
		for _, name := range [][]byte{metaBucket, livesBucket, metersBucket, hoursBucket, ofLifeBucket, ofVMBucket, ofTenant, marksBucket} {
			if _, err := tx.CreateBucketIfNotExists(name); err != nil {
				return err
			}
		}
		return nil
	})
	if err == nil {
		err = syncDir(filepath.Dir(path))
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("prepare the ledger %s: %w", path, err), db.Close())
	}
	return db, nil
}

// ErrLocked says that another process, such as a metald that runs, has the ledger open.
var ErrLocked = errors.New("another process has it open")

// syncDir makes the name of a new file durable.
func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

func readState(tx *bbolt.Tx) (state, error) {
	var s state
	text := tx.Bucket(metaBucket).Get(stateKey)
	if text == nil {
		return state{Version: version}, nil
	}
	if err := json.Unmarshal(text, &s); err != nil {
		return s, fmt.Errorf("the ledger is damaged: %w", err)
	}
	if s.Version != version {
		return s, fmt.Errorf("the ledger has version %d; this metald knows version %d", s.Version, version)
	}
	return s, nil
}

func readLife(tx *bbolt.Tx, epoch uint64) (savedLife, error) {
	var s savedLife
	text := tx.Bucket(livesBucket).Get(number(epoch))
	if text == nil {
		return s, fmt.Errorf("the ledger is damaged: it has no incarnation %d", epoch)
	}
	if err := json.Unmarshal(text, &s); err != nil {
		return s, fmt.Errorf("the ledger is damaged: incarnation %d: %w", epoch, err)
	}
	return s, nil
}

func putJSON(bucket *bbolt.Bucket, key []byte, value any) error {
	text, err := json.Marshal(value)
	if err != nil {
		return err
	}
	return bucket.Put(key, text)
}

func number(n uint64) []byte { return binary.BigEndian.AppendUint64(nil, n) }

// pair is a key of two numbers.
func pair(a, b uint64) []byte { return binary.BigEndian.AppendUint64(number(a), b) }

func head(key []byte) uint64 { return binary.BigEndian.Uint64(key) }
func tail(key []byte) uint64 { return binary.BigEndian.Uint64(key[len(key)-8:]) }

// named is a key of a name and an epoch.
func named(name string, epoch uint64) []byte {
	return binary.BigEndian.AppendUint64(append([]byte(name), 0), epoch)
}

// hourKey is an hour, by its unix second, as a number of a key. Hours before 1970 are at the end, which nobody asks for.
func hourKey(hour int64) uint64 { return uint64(hour) }
