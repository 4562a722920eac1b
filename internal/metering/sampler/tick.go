package sampler

import (
	"time"

	"github.com/unkeyed/unkey/go/deploy/metald/internal/host/tap"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/metering/record"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/metering/usage"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/metering/wal"
)

// sweep is what Run's goroutine reads at a tick.
type sweep struct {
	round   uint64 // number of the tick
	work    []work // in the order of lives, those without a source left out
	byIndex map[int]*tapState
	dumper  dumper
	each    func(int, tap.Counters)
	turn    int   // who is asked first
	retap   bool  // the table of taps is to be made anew
	failed  bool  // the last dump, which was told
	ahead   int64 // CLOCK_BOOTTIME of CLOCK_MONOTONIC, in ns
}

// work is one life to be read.
type work struct {
	life    *life
	source  *source
	reading usage.Reading
	want    bool
}

// tick takes one tick, which was due at the time due, after others that did not come.
func (s *Sampler) tick(due int64, missed uint64) {
	if !s.collect(missed) {
		return
	}
	at := s.clock.Now()
	s.readAll(at.Mono)
	s.commit(at)
	s.ask()
	s.stats.tick(at.Mono-due, s.clock.Now().Mono-at.Mono, int64(s.cfg.Interval))
	s.watchSuspend()
}

// collect takes a copy of the list of lives, if there is to be a tick.
func (s *Sampler) collect(missed uint64) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.held() {
		if s.restored { // before, the keyframe says where lives go on
			s.missed += missed + 1
		}
		return false
	}
	s.missed += missed
	s.stats.add(&s.stats.now.Missed, missed)
	w := &s.sweep
	w.round++
	if !s.changed {
		return true
	}
	s.changed, w.retap = false, true
	w.work = w.work[:0]
	for _, l := range s.lives {
		if l.source != nil {
			w.work = append(w.work, work{life: l, source: l.source})
		}
	}
	return true
}

// readAll reads everything there is to read.
func (s *Sampler) readAll(now int64) {
	w := &s.sweep
	if w.retap {
		w.index()
		w.retap = false
	}
	err := w.readTaps()
	if failed := err != nil; failed != w.failed {
		w.failed = failed
		if failed {
			s.log.Error("the counters of taps cannot be read", "error", err)
		}
	}
	second := uint64(max(time.Second/s.cfg.Interval, 1))
	for i := range w.work {
		u := &w.work[i]
		full := (w.round+u.source.phase)%second == 0
		u.reading, u.want = u.source.read(now, full)
		w.netReading(u.source, &u.reading)
		if full && err == nil && w.seek(u.source) {
			w.retap = true
		}
	}
}

// commit writes what was read. The encoder has it then, even if the log does not: its next keyframe says what was used.
func (s *Sampler) commit(at usage.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	at = s.notBefore(at)
	err := s.flush(at)
	if len(s.lives) == 0 && err == nil {
		s.missed = 0
		return
	}
	if err == nil {
		err = s.keyframe(at)
	}
	if err != nil {
		s.missed++
		s.refused(err)
		return
	}
	s.lay(at)
	s.body = s.enc.Tick(s.body[:0], at, s.missed, s.lines)
	if _, err := s.cfg.Log.Append(wal.Record{Type: record.TypeTick, Body: s.body}); err != nil {
		s.broken = true
		s.refused(err)
	} else {
		s.refusing = false
	}
	s.missed = 0
	if s.stepped {
		s.stepped = false
		s.stats.add(&s.stats.now.WallSteps, 1)
		s.log.Warn("the host's wall clock was set", "to", time.Unix(0, at.Wall))
	}
}

// lay makes the tick's lines, one for each life that does not wait to be adopted, and has all lives go on by a tick.
func (s *Sampler) lay(at usage.Time) {
	s.lines = s.lines[:0]
	work := s.sweep.work
	for _, l := range s.lives {
		seq := l.coming(s.missed)
		l.next = seq + 1
		if l.waiting {
			continue
		}
		var r usage.Reading
		for len(work) > 0 && work[0].life.epoch() < l.epoch() {
			work = work[1:]
		}
		if len(work) > 0 && work[0].life == l {
			r = work[0].reading
		}
		l.allocated(&r)
		s.lines = append(s.lines, record.Line{Epoch: l.epoch(), Reading: s.believable(l, r, seq, at)})
	}
}

// ask has machines be asked that want to: as many as there is room for, and others first at the next tick.
func (s *Sampler) ask() {
	w := &s.sweep
	n := len(w.work)
	for k := range n {
		u := &w.work[(w.turn+k)%n]
		if !u.want || !u.source.beginAsk() {
			continue
		}
		select {
		case s.asks <- u.source:
		default:
			u.source.forgetAsk()
			w.turn = (w.turn + k) % n
			return
		}
	}
}
