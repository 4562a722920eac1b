package sampler

import (
	"cmp"
	"context"
	"errors"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/unkeyed/unkey/go/deploy/metald/internal/backend/types"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/metering/record"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/metering/usage"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/metering/wal"
)

// Log is the write-ahead log as the sampler uses it; wal.Log has these methods and documents them.
type Log interface {
	Append(wal.Record) (seq uint64, err error)
	NeedsKeyframe() bool
	Wait(ctx context.Context, seq uint64) error
}

// Config is what a sampler needs. Zero values after Boot are replaced by what is said.
type Config struct {
	Log       Log
	Host      string          // the host's id
	Boot      string          // the kernel's boot id
	Open      []usage.Account // lives that the log knows and of which it has no end
	LastEpoch uint64          // the greatest that the log has
	Interval  time.Duration   // between ticks: 100 ms
	Keyframes time.Duration   // at most between keyframes: 1 min
	Workers   int             // that ask VMMs for their disks' counters: 4
	Asks      int             // most that are asked at a tick: 100
	Clock     Clock           // the host's
	Logger    *slog.Logger    // slog.Default
}

func (c Config) withDefaults() Config {
	c.Interval = cmp.Or(c.Interval, 100*time.Millisecond)
	c.Keyframes = cmp.Or(c.Keyframes, time.Minute)
	c.Workers = cmp.Or(c.Workers, 4)
	c.Asks = cmp.Or(c.Asks, 100)
	c.Logger = cmp.Or(c.Logger, slog.Default())
	if c.Clock == nil {
		c.Clock = hostClock{}
	}
	return c
}

// Sampler meters all VMs of a host. Its methods are for any goroutine, Run for one. After Run has ended they do nothing.
type Sampler struct {
	cfg   Config
	log   *slog.Logger
	clock Clock
	asks  chan *source
	sweep sweep // of Run alone

	mu       sync.Mutex // held for records to be made; across no reading and no disk
	enc      record.Encoder
	body     []byte // of the record that is being made
	epoch    uint64 // of the last life that began
	lives    []*life
	byVM     map[types.VMID]*life // lives that go on; others wait to be adopted
	foreign  []*life              // of another boot: their clock is not ours
	ends     []usage.End          // that the log has not taken yet
	changed  bool                 // lives were attached or ended since the last tick
	restored bool                 // lives of earlier metalds are in the encoder's table
	broken   bool                 // the encoder's table is not what the log says: a keyframe is next
	settled  bool                 // Settle was called
	keyAt    int64                // when the last keyframe was
	last     usage.Time           // of the last record
	missed   uint64               // ticks before the next one
	refusing bool                 // the log did not take the last tick
	ended    bool                 // Run has
	stepped  bool                 // the wall clock was set since the last tick
	lines    []record.Line
	stats    stats
}

// New makes a sampler that goes on with the lives that are open. It writes nothing before Run, Begin or End.
func New(cfg Config) (*Sampler, error) {
	if cfg.Log == nil || cfg.Host == "" || cfg.Boot == "" {
		return nil, errors.New("sampler: a log, the host's id and its boot id are needed")
	}
	cfg = cfg.withDefaults()
	s := &Sampler{
		cfg: cfg, log: cfg.Logger, clock: cfg.Clock, asks: make(chan *source, cfg.Asks),
		epoch: cfg.LastEpoch, byVM: map[types.VMID]*life{}, broken: true,
	}
	s.enc.Found = s.doubt
	s.sweep.byIndex, s.sweep.each = map[int]*tapState{}, s.sweep.take
	for _, a := range cfg.Open {
		l := &life{life: a.Life, next: a.Meter.Totals.Next, state: a.Meter.State, waiting: true}
		s.enc.Restore(record.OpenOf(a))
		s.epoch = max(s.epoch, a.Life.Incarnation.Epoch)
		if a.Life.Incarnation.Boot == cfg.Boot {
			s.lives = append(s.lives, l)
		} else {
			s.foreign = append(s.foreign, l)
		}
	}
	slices.SortFunc(s.lives, func(a, b *life) int { return cmp.Compare(a.epoch(), b.epoch()) })
	return s, nil
}

// now is the time of a record: never before that of an earlier one. The caller holds mu.
func (s *Sampler) now() usage.Time { return s.notBefore(s.clock.Now()) }

func (s *Sampler) notBefore(at usage.Time) usage.Time {
	if at.Mono < s.last.Mono {
		at = s.last
	}
	s.last = at
	return at
}

// Accounts are the lives that the log has no end of, each with what was used in it so far.
func (s *Sampler) Accounts() []usage.Account {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.enc.Accounts()
}
