package ledger

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/klauspost/compress/zstd"
	"go.etcd.io/bbolt"

	"github.com/unkeyed/unkey/go/deploy/metald/internal/metering/record"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/metering/usage"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/metering/wal"
)

// Source is the log that a ledger follows; *wal.Log is one.
type Source interface {
	// NewReader begins with the first record after the number.
	NewReader(after uint64) *wal.Reader
	// Head is the last durable record.
	Head() (seq uint64, hash wal.Hash)
}

// Config is what a ledger is made of. Path and Log are required; for the rest the zero value is a default.
type Config struct {
	Path   string
	Log    Source
	Logger *slog.Logger
	Now    func() time.Time

	// SaveEvery is how often the ledger is saved: 10 s. What came since is read from the log again after a crash.
	SaveEvery time.Duration
	// MarkEvery is how far marks lie apart: 2 min. A window within an hour is made by reading the log from a mark on.
	MarkEvery time.Duration
	// Retention is how long the log is kept for windows within an hour: 24 h.
	Retention time.Duration
	// ReplayBytes is the most of the log that one query reads: 256 MiB.
	ReplayBytes int64
}

func (c Config) withDefaults() Config {
	c.SaveEvery = cmp.Or(c.SaveEvery, 10*time.Second)
	c.MarkEvery = cmp.Or(c.MarkEvery, 2*time.Minute)
	c.Retention = cmp.Or(c.Retention, 24*time.Hour)
	c.ReplayBytes = cmp.Or(c.ReplayBytes, 256<<20)
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	return c
}

// Ledger is an open ledger. All but Run is for any goroutine at any time.
type Ledger struct {
	cfg     Config
	db      *bbolt.DB
	zip     *zstd.Encoder
	unzip   *zstd.Decoder
	replays chan struct{} // a token for each reading of the log that is under way

	// Of who follows the log.
	reader  *wal.Reader
	decoder record.Decoder

	// Changed by who follows the log, under mu; read by others under mu.
	mu       sync.Mutex
	book     *book
	byVM     map[string]*account // the newest that lives
	ended    map[uint64]*account // since the ledger was saved
	position uint64
	hash     wal.Hash // of that record, where it could be read
	state    state    // as it was saved
	status   Status
}

// Status is how a ledger is.
type Status struct {
	Position    uint64 // number of the last record that is in the ledger
	Saved       uint64 // and of the last one that is in it for good
	Open        int    // incarnations that live
	Quarantined uint64 // values that were set aside since the ledger was opened
	Lost        uint64 // records that the log could not give since then, of those that were durable
	Undecodable uint64 // records that no metald wrote
	Err         error  // why the ledger could not be saved the last time; nil once it could
}

// maxReplays is how many queries may read the log at a time.
const maxReplays = 2

// Open opens the ledger, makes it where there is none, and reads what the log has that it has not.
func Open(ctx context.Context, cfg Config) (*Ledger, error) {
	cfg = cfg.withDefaults()
	db, err := openFile(cfg.Path, false)
	if err != nil {
		return nil, err
	}
	l, err := newLedger(cfg, db)
	if err == nil {
		err = l.load()
	}
	if err == nil && l.state.Checkpoint == 0 {
		err = l.save() // a mark before everything
	}
	if err == nil {
		err = l.join(ctx)
	}
	if err != nil {
		if l != nil && l.reader != nil {
			l.reader.Close()
		}
		return nil, errors.Join(fmt.Errorf("ledger %s: %w", cfg.Path, err), db.Close())
	}
	return l, nil
}

func newLedger(cfg Config, db *bbolt.DB) (*Ledger, error) {
	zip, err := zstd.NewWriter(nil, zstd.WithEncoderConcurrency(1))
	if err != nil {
		return nil, err
	}
	unzip, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(1))
	if err != nil {
		return nil, err
	}
	l := &Ledger{
		cfg: cfg, db: db, zip: zip, unzip: unzip, replays: make(chan struct{}, maxReplays),
		book: newBook(), byVM: map[string]*account{}, ended: map[uint64]*account{},
	}
	l.book.ended = l.hasEnded
	l.book.opened = func(a *account) { l.byVM[a.life.Incarnation.VM] = a }
	l.book.closed = l.noteEnd
	l.book.placed = place
	l.book.found = l.noteFinding
	return l, nil
}

// hasEnded says whether an incarnation that does not live has ended, rather than never begun.
func (l *Ledger) hasEnded(epoch uint64) bool {
	if l.ended[epoch] != nil {
		return true
	}
	known := false
	_ = l.db.View(func(tx *bbolt.Tx) error {
		known = tx.Bucket(livesBucket).Get(number(epoch)) != nil
		return nil
	})
	return known
}

func (l *Ledger) noteEnd(a *account) {
	l.ended[a.life.Incarnation.Epoch] = a
	if vm := a.life.Incarnation.VM; l.byVM[vm] == a {
		delete(l.byVM, vm)
	}
	if a.end.Reason == Damaged {
		l.cfg.Logger.Warn("the log has lost how a VM ended; it is billed up to the last tick that is there",
			"vm", a.life.Incarnation.VM, "epoch", a.life.Incarnation.Epoch)
	}
}

func (l *Ledger) noteFinding(a *account, f usage.Finding) {
	l.status.Quarantined++
	if a.placed == nil {
		a.placed = map[int64]row{}
	}
	hour := findingHour(f)
	a.placed[hour] = a.placed[hour].plus(row{Quarantined: 1})
	l.cfg.Logger.Warn("a reading cannot be true and is not billed", "vm", a.life.Incarnation.VM, "epoch", a.life.Incarnation.Epoch, "finding", f.String())
}

// catchUp reads all that is durable now.
func (l *Ledger) catchUp(ctx context.Context) error {
	head, _ := l.cfg.Log.Head()
	if l.reader == nil {
		l.reader = l.cfg.Log.NewReader(l.position)
	}
	for l.position < head {
		e, err := l.reader.Next(ctx)
		if err != nil {
			return fmt.Errorf("read the log after record %d: %w", l.position, err)
		}
		l.follow(e)
		if l.book.at.Wall-l.state.At.Wall >= int64(l.cfg.MarkEvery) { // a log that is long
			if err := l.save(); err != nil {
				return err
			}
		}
	}
	return nil
}

// follow takes what the log has next.
func (l *Ledger) follow(e wal.Entry) {
	if e.Known {
		readFor(&l.decoder, e)
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if e.Lost != nil {
		l.decoder.Lost()
		l.position, l.hash = e.Lost.Last, wal.Hash{}
		if !e.Lost.Never {
			l.status.Lost += e.Lost.Last - e.Lost.First + 1
			l.cfg.Logger.Warn("the log lost records", "loss", e.Lost.String())
		}
		return
	}
	if err := l.decoder.Decode(e.Type, e.Body, l.book); err != nil {
		l.decoder.Lost()
		l.status.Undecodable++
		l.cfg.Logger.Warn("a record of the log cannot be read", "record", e.Seq, "error", err)
	}
	l.position, l.hash = e.Seq, e.Hash
}

// Run follows the log until ctx ends, then reads what is durable, and saves the ledger. It has to be called once.
func (l *Ledger) Run(ctx context.Context) error {
	for ctx.Err() == nil {
		ended := l.followFor(ctx, l.cfg.SaveEvery)
		l.note(l.save())
		if ended {
			<-ctx.Done()
		}
	}
	err := l.catchUp(context.WithoutCancel(ctx))
	return errors.Join(err, l.save())
}

// followFor follows the log for a while; true once it has ended.
func (l *Ledger) followFor(ctx context.Context, d time.Duration) bool {
	ctx, cancel := context.WithTimeout(ctx, d)
	defer cancel()
	for {
		e, err := l.reader.Next(ctx)
		if err != nil {
			return errors.Is(err, io.EOF)
		}
		l.follow(e)
		if ctx.Err() != nil {
			return false
		}
	}
}

func (l *Ledger) note(err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if err != nil && l.status.Err == nil {
		l.cfg.Logger.Error("the ledger cannot be saved; what it lacks stays in the log", "error", err)
	}
	l.status.Err = err
}

// Close closes the ledger. Run has to have returned.
func (l *Ledger) Close() error {
	if l.reader != nil {
		l.reader.Close()
	}
	l.unzip.Close()
	return errors.Join(l.zip.Close(), l.db.Close())
}

// Status returns how the ledger is.
func (l *Ledger) Status() Status {
	l.mu.Lock()
	defer l.mu.Unlock()
	s := l.status
	s.Position, s.Saved, s.Open = l.position, l.state.Position, len(l.book.accounts)
	return s
}

// Accounts returns those that live, in the order in which they began.
func (l *Ledger) Accounts() []usage.Account {
	l.mu.Lock()
	defer l.mu.Unlock()
	list := make([]usage.Account, 0, len(l.book.accounts))
	for _, a := range l.book.accounts {
		list = append(list, usage.Account{Life: a.life, Meter: a.meter})
	}
	slices.SortFunc(list, func(a, b usage.Account) int {
		return cmp.Compare(a.Life.Incarnation.Epoch, b.Life.Incarnation.Epoch)
	})
	return list
}

// LastEpoch is the highest epoch that the log ever gave.
func (l *Ledger) LastEpoch() uint64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.book.last
}

// Position is the number of the last record that is in the ledger for good.
func (l *Ledger) Position() uint64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.state.Position
}

// Releasable is the number of the last record that the ledger does not need any more: neither to be whole, nor for
// windows within an hour as far back as its retention says.
func (l *Ledger) Releasable() (uint64, error) {
	var old *mark
	err := l.db.View(func(tx *bbolt.Tx) (err error) {
		old, err = lastMark(tx, l.cfg.Now().Add(-l.cfg.Retention).UnixNano())
		return err
	})
	if err != nil || old == nil {
		return 0, err
	}
	return min(old.position, l.Position()), nil
}
