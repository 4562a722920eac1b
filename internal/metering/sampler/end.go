package sampler

import (
	"github.com/unkeyed/unkey/go/deploy/metald/internal/backend/types"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/metering/usage"
)

// End closes the life of a VM whose VMM has ended. last is what its machine says then: what is nil in it is UNKNOWN, and
// the totals are the least that was used of it.
func (s *Sampler) End(id types.VMID, last types.Usage, reason string) {
	s.mu.Lock()
	var gone *source
	if l := s.byVM[id]; l != nil && !s.ended {
		gone = s.close(l, s.now(), s.lastReading(l, last), reason)
	}
	s.mu.Unlock()
	closeAll([]*source{gone})
}

// Lost is End for a VMM by its handle, of which no metald may have seen the end.
func (s *Sampler) Lost(h types.Handle, last types.Usage, reason string) {
	s.mu.Lock()
	var gone *source
	if l := s.find(h); l != nil && !s.ended {
		gone = s.lose(l, last, reason)
	}
	s.mu.Unlock()
	closeAll([]*source{gone})
}

// Settle ends the lives of earlier metalds that were not adopted, but for those to keep: their VMMs may be alive. Until
// then there are no ticks while a life waits, since where it goes on depends on what is found. keep must not block.
func (s *Sampler) Settle(keep func(usage.Incarnation) bool, reason string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.settled = true
	if s.ended {
		return
	}
	for _, l := range s.unadopted() {
		if keep == nil || !s.ours(l) || !keep(l.life.Incarnation) {
			s.lose(l, types.Usage{}, reason) // it has no source
		}
	}
}

// ours says whether a life is of this boot: no VMM of another is alive, and its clock is not ours.
func (s *Sampler) ours(l *life) bool { return l.life.Incarnation.Boot == s.cfg.Boot }

func (s *Sampler) unadopted() (all []*life) {
	for _, group := range [][]*life{s.lives, s.foreign} {
		for _, l := range group {
			if l.waiting {
				all = append(all, l)
			}
		}
	}
	return all
}

// lose closes a life of which it is not known when it ended: where nothing was read after, at the last tick.
// The caller holds mu, and closes what is returned.
func (s *Sampler) lose(l *life, last types.Usage, reason string) *source {
	read := last.CPUTime != nil || last.Disks != nil || last.Networks != nil
	if !l.waiting || read && s.ours(l) {
		return s.close(l, s.now(), s.lastReading(l, last), reason)
	}
	var r usage.Reading
	_, meter := s.enc.Account(l.epoch())
	if v, ok := meter.Last.Value(usage.Allocated); ok {
		r.Put(usage.Allocated, v)
	}
	return s.close(l, meter.Totals.At, r, reason)
}

// lastReading is what a life ends with. What has ended holds no memory.
func (s *Sampler) lastReading(l *life, last types.Usage) usage.Reading {
	r := reading(last, l.spec)
	_, meter := s.enc.Account(l.epoch())
	if l.waiting { // nobody said what it has
		r = readingAsTold(last)
		if v, ok := meter.Last.Value(usage.Allocated); ok {
			r.Put(usage.Allocated, v)
		}
	}
	r.Put(usage.Resident, 0)
	l.allocated(&r)
	// The clock of a process and the counter of a cgroup are not read at one moment.
	if seen, ok := meter.Last.Value(usage.CPU); ok {
		if v, ok := r.Value(usage.CPU); ok {
			r.Put(usage.CPU, max(v, seen))
		}
	}
	return r
}

// close ends a life with its last tick. The caller holds mu, and closes what is returned.
func (s *Sampler) close(l *life, at usage.Time, r usage.Reading, reason string) *source {
	known, meter := s.enc.Account(l.epoch())
	seq := l.next
	if at.Mono > meter.Totals.At.Mono {
		seq = l.coming(s.missed)
	}
	last := usage.Sample{Seq: seq, At: at, State: usage.Stopped, Reading: s.believable(l, r, seq, at)}
	account := usage.Account{Life: *known, Meter: *meter}
	end, found := account.Finish(last, reason)
	for _, f := range found {
		s.doubtIn(l, f)
	}
	gone := s.remove(l)
	s.ends = append(s.ends, end)
	if err := s.flush(s.now()); err != nil {
		s.refused(err)
	}
	return gone
}
