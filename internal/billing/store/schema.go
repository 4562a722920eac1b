// Package store is the ledger of billaged, in SQLite: one row per incarnation with the tick that is expected next, the
// totals and the hash chain, and a row per incarnation and hour. What a batch adds to them is committed in one
// transaction with the tick that is expected next, so that it is added once, however often it comes.
package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"math"
	"path/filepath"
	"strings"
	"time"

	_ "modernc.org/sqlite" // the driver "sqlite"

	"github.com/unkeyed/unkey/go/deploy/metald/internal/billing/raw"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/metering/batch"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/metering/usage"
)

// amountColumns are the columns of a usage.Amount. Memory over time takes two: 128 bits, high and low, the low half as
// a signed integer with the same bits. NULL is for nothing: the sets say what was measured (bit 0 is cpu, see
// usage.Field).
const amountColumns = "cpu_ns, disk_read_bytes, disk_write_bytes, network_rx_bytes, network_tx_bytes, " +
	"memory_resident_hi, memory_resident_lo, memory_allocated_hi, memory_allocated_lo, " +
	"running_ns, paused_ns, other_ns, unobserved_ns, gap_ticks, measured, incomplete"

const amountWidth = 16

func schema() string {
	amounts := strings.ReplaceAll(amountColumns, ",", " INTEGER NOT NULL,") + " INTEGER NOT NULL"
	return `
CREATE TABLE IF NOT EXISTS incarnations(
  id INTEGER PRIMARY KEY, host TEXT NOT NULL, vm TEXT NOT NULL, epoch INTEGER NOT NULL, boot TEXT NOT NULL,
  start_ticks INTEGER NOT NULL, customer TEXT NOT NULL,
  phase INTEGER NOT NULL, -- 0 open, 1 ended with ticks still to come, 2 closed
  legacy INTEGER NOT NULL, -- 1: by timestamps
  next_seq INTEGER NOT NULL, chain BLOB NOT NULL,
  meter TEXT NOT NULL, -- what the arithmetic remembers, JSON
  final_seq INTEGER NOT NULL, final TEXT NOT NULL, reason TEXT NOT NULL,
  at_mono INTEGER NOT NULL, at_wall INTEGER NOT NULL, totals_next INTEGER NOT NULL, ` + amounts + `,
  UNIQUE(host, vm, epoch, boot, start_ticks));
CREATE INDEX IF NOT EXISTS incarnations_by_customer ON incarnations(customer);
CREATE INDEX IF NOT EXISTS incarnations_by_vm ON incarnations(vm);
CREATE TABLE IF NOT EXISTS ledger(
  incarnation INTEGER NOT NULL REFERENCES incarnations, hour INTEGER NOT NULL, -- unix seconds
  ` + amounts + `, PRIMARY KEY(incarnation, hour)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS gaps(
  incarnation INTEGER NOT NULL REFERENCES incarnations, first INTEGER NOT NULL, last INTEGER NOT NULL,
  PRIMARY KEY(incarnation, first)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS quarantine(
  incarnation INTEGER NOT NULL REFERENCES incarnations, kind TEXT NOT NULL, line TEXT NOT NULL, seq INTEGER NOT NULL,
  at_mono INTEGER NOT NULL, at_wall INTEGER NOT NULL, was TEXT NOT NULL, got TEXT NOT NULL, most TEXT NOT NULL,
  PRIMARY KEY(incarnation, seq, kind, line, got)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS hosts(host TEXT PRIMARY KEY, heard INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS heads(
  host TEXT NOT NULL, records INTEGER NOT NULL, hash BLOB NOT NULL, signed_at INTEGER NOT NULL, signature BLOB NOT NULL,
  PRIMARY KEY(host, records)) WITHOUT ROWID;`
}

// Store is the ledger. It is safe for concurrent use: SQLite takes one writer at a time, readers do not wait for it.
type Store struct {
	write, read *sql.DB
	raw         *raw.Log
	codec       *batch.Codec
	path        string
}

// segmentBytes is how large a segment of raw batches grows before it is sealed.
const segmentBytes = 64 << 20

// Open opens the ledger in dir, which exists. One process at a time may.
func Open(ctx context.Context, dir string) (*Store, error) {
	codec, err := batch.NewCodec()
	if err != nil {
		return nil, err
	}
	log, err := raw.Open(filepath.Join(dir, "raw"), segmentBytes)
	if err != nil {
		return nil, err
	}
	s := &Store{raw: log, codec: codec, path: filepath.Join(dir, "ledger.db")}
	uri := "file:" + filepath.Join(dir, "ledger.db") + "?_pragma=journal_mode(WAL)&_pragma=synchronous(FULL)&_pragma=busy_timeout(5000)&_pragma=foreign_keys(1)&_txlock=immediate"
	if s.write, err = sql.Open("sqlite", uri); err != nil {
		return nil, errors.Join(err, log.Close())
	}
	s.write.SetMaxOpenConns(1)
	if _, err := s.write.ExecContext(ctx, schema()); err != nil {
		return nil, errors.Join(fmt.Errorf("open the ledger in %s: %w", dir, err), s.write.Close(), log.Close())
	}
	if s.read, err = sql.Open("sqlite", uri+"&mode=ro"); err != nil {
		return nil, errors.Join(err, s.write.Close(), log.Close())
	}
	return s, nil
}

// LastRaw is the last raw record that an earlier process kept; nil if there is none. It may have ended before the record
// came into the ledger, so whoever opens a ledger gives it that record again.
func (s *Store) LastRaw() []byte { return s.raw.Last() }

// Close closes the ledger.
func (s *Store) Close() error { return errors.Join(s.read.Close(), s.write.Close(), s.raw.Close()) }

// Ping says whether the ledger can be written to.
func (s *Store) Ping(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	return s.change(ctx, func(tx *sql.Tx) error { return nil })
}

// change runs f in a transaction that is committed, and on the disk, if f returns nil.
func (s *Store) change(ctx context.Context, f func(tx *sql.Tx) error) error {
	tx, err := s.write.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	if err := f(tx); err != nil {
		return errors.Join(err, tx.Rollback())
	}
	return tx.Commit()
}

// amountArgs are the values of amountColumns.
func amountArgs(a usage.Amount) []any {
	var args []any
	for q, of := range a.Of {
		if usage.Quantity(q) == usage.Quantity(usage.Resident) || usage.Quantity(q) == usage.Quantity(usage.Allocated) {
			args = append(args, int64(of.Hi), int64(of.Lo))
			continue
		}
		n := of.Lo
		if of.Hi > 0 || n > math.MaxInt64 {
			n = math.MaxInt64
		}
		args = append(args, int64(n))
	}
	return append(args, int64(a.Measured), int64(a.Incomplete))
}

// amountDest scans amountColumns; the function turns what was scanned into an amount.
func amountDest() ([]any, func() usage.Amount) {
	values := make([]int64, amountWidth)
	dest := make([]any, amountWidth)
	for i := range values {
		dest[i] = &values[i]
	}
	return dest, func() usage.Amount {
		var a usage.Amount
		i := 0
		for q := range a.Of {
			if usage.Quantity(q) == usage.Quantity(usage.Resident) || usage.Quantity(q) == usage.Quantity(usage.Allocated) {
				a.Of[q].Hi = uint64(values[i])
				i++
			}
			a.Of[q].Lo = uint64(values[i])
			i++
		}
		a.Measured, a.Incomplete = usage.Set(values[i]), usage.Set(values[i+1])
		return a
	}
}

// marks is n question marks.
func marks(n int) string { return strings.TrimSuffix(strings.Repeat("?,", n), ",") }

// amountsOf is amountColumns of a table.
func amountsOf(table string) string {
	return table + "." + strings.ReplaceAll(amountColumns, ", ", ", "+table+".")
}

// Reader is a ledger that is only read, beside the billaged that writes it.
type Reader struct{ Store }

// OpenForReading opens the database at path, which exists, to read it.
func OpenForReading(path string) (*Reader, error) {
	db, err := sql.Open("sqlite", "file:"+path+"?mode=ro&_pragma=busy_timeout(5000)")
	if err != nil {
		return nil, err
	}
	return &Reader{Store{read: db}}, nil
}

// Freeze opens the ledger as it is now, to read it at leisure beside what is written, and returns the place in the raw
// records that it corresponds to.
func (s *Store) Freeze(ctx context.Context) (*Reader, raw.Mark, error) {
	r, err := OpenForReading(s.path)
	if err != nil {
		return nil, raw.Mark{}, err
	}
	r.read.SetMaxOpenConns(1) // the transaction is the connection's
	var at raw.Mark
	err = s.change(ctx, func(*sql.Tx) error { // no other change is half done
		at = s.raw.Mark()
		if _, err := r.read.ExecContext(ctx, "BEGIN"); err != nil {
			return err
		}
		var n int
		return r.read.QueryRowContext(ctx, "SELECT count(*) FROM hosts").Scan(&n) // from here on it sees no more
	})
	if err != nil {
		return nil, raw.Mark{}, errors.Join(fmt.Errorf("freeze the ledger: %w", err), r.Close())
	}
	return r, at, nil
}

// Close closes it.
func (r *Reader) Close() error { return r.read.Close() }
