package sampler

import (
	"cmp"
	"slices"
	"sync"
	"time"

	"github.com/unkeyed/unkey/go/deploy/metald/internal/metering/usage"
)

// Status is how the sampler is: numbers since New, where nothing else is said.
type Status struct {
	Lives       int // that go on
	Waiting     int // of earlier metalds, to be adopted or settled
	PendingEnds int // that the log has not taken yet

	// Realtime: ticks are taken by a thread that guests do not keep from a CPU. NotRealtime is why not.
	Realtime    bool
	NotRealtime error

	Ticks   uint64 // taken
	Late    uint64 // of them, those that came later than a fifth of the interval
	Missed  uint64 // that did not come: nobody looked
	Refused uint64 // that were read and that the log did not take; they count as missed in the log

	P99Lateness time.Duration // of the last 1,000 ticks or so
	MaxLateness time.Duration
	P99Sweep    time.Duration // how long such a tick took, the log's record included

	Asks        uint64 // for what only a VMM knows
	AskFailures uint64

	Quarantined uint64 // values that were not believed
	WallSteps   uint64 // of the host's wall clock
	Suspends    uint64 // of the host
}

// Status returns how the sampler is.
func (s *Sampler) Status() Status {
	got := s.stats.get()
	s.mu.Lock()
	defer s.mu.Unlock()
	got.PendingEnds = len(s.ends)
	got.Waiting = len(s.unadopted())
	got.Lives = len(s.lives) + len(s.foreign) - got.Waiting
	return got
}

// window is how many ticks percentiles are of.
const window = 1024

// stats is what Status tells.
type stats struct {
	mu    sync.Mutex
	now   Status
	late  [window]int64 // ns, of the last ticks
	took  [window]int64
	count uint64
}

func (t *stats) get() Status {
	t.mu.Lock()
	defer t.mu.Unlock()
	s := t.now
	n := int(min(t.count, window))
	s.P99Lateness, s.P99Sweep = percentile(t.late[:n], 99), percentile(t.took[:n], 99)
	return s
}

func percentile(ns []int64, p int) time.Duration {
	if len(ns) == 0 {
		return 0
	}
	sorted := slices.Sorted(slices.Values(ns))
	return time.Duration(sorted[(len(sorted)*p-1)/100])
}

// tick notes that a tick came late and took took.
func (t *stats) tick(late, took, interval int64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	i := t.count % window
	t.late[i], t.took[i] = late, took
	t.count++
	t.now.Ticks++
	if late > interval/5 {
		t.now.Late++
	}
	t.now.MaxLateness = max(t.now.MaxLateness, time.Duration(late))
}

func (t *stats) realtime(err error) {
	t.mu.Lock()
	t.now.Realtime, t.now.NotRealtime = err == nil, err
	t.mu.Unlock()
}

func (t *stats) add(n *uint64, by uint64) {
	t.mu.Lock()
	*n += by
	t.mu.Unlock()
}

func (t *stats) asked(err error) {
	t.add(&t.now.Asks, 1)
	if err != nil {
		t.add(&t.now.AskFailures, 1)
	}
}

const kinds = int(usage.Short) + 1

// believable is r without counters that fell since they were last believed: who reads the log is to see that they are
// not known. Another life is begun by who knows why, and not here. The caller holds mu.
func (s *Sampler) believable(l *life, r usage.Reading, seq uint64, at usage.Time) usage.Reading {
	_, meter := s.enc.Account(l.epoch())
	for f := range usage.Field(usage.Counters) {
		was, began := meter.Last.Value(f)
		if v, ok := r.Value(f); ok && began && v < was {
			r.Forget(f)
			s.tell(l, usage.Finding{Kind: usage.Fell, Quantity: usage.Quantity(f), Seq: seq, At: at, Was: usage.Of64(was), Got: usage.Of64(v)})
		}
	}
	return r
}

// doubt takes a finding of the encoder's meters. The caller holds mu.
func (s *Sampler) doubt(epoch uint64, f usage.Finding) {
	i, ok := slices.BinarySearchFunc(s.lives, epoch, func(l *life, epoch uint64) int { return cmp.Compare(l.epoch(), epoch) })
	if ok {
		s.doubtIn(s.lives[i], f)
	}
}

// doubtIn takes a finding of a life. That the wall clock was set is one event for all.
func (s *Sampler) doubtIn(l *life, f usage.Finding) {
	if f.Kind == usage.WallStepped {
		s.stepped = true
		return
	}
	s.tell(l, f)
}

// tell counts a finding, and logs the first of its kind in a life.
func (s *Sampler) tell(l *life, f usage.Finding) {
	s.stats.add(&s.stats.now.Quarantined, 1)
	if !l.told[f.Kind] {
		l.told[f.Kind] = true
		s.log.Error("a reading is not believed; more of its kind are only counted", "vm", l.vm(), "epoch", l.epoch(), "finding", f.String())
	}
}

// refused notes that the log did not take a tick; the first of many is logged. The caller holds mu.
func (s *Sampler) refused(err error) {
	s.stats.add(&s.stats.now.Refused, 1)
	if !s.refusing {
		s.log.Error("the log of metering does not take what was read; counters are in the next tick that it takes", "error", err)
	}
	s.refusing = true
}
