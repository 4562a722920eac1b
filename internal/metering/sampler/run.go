package sampler

import (
	"context"
	"runtime"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// Run takes the ticks until ctx ends. It has to be called once. Whoever tells of lives has ended before, or does nothing
// more by it.
func (s *Sampler) Run(ctx context.Context) error {
	s.sweep.begin(s.log)
	ctx, stop := context.WithCancel(ctx)
	var workers sync.WaitGroup
	for range s.cfg.Workers {
		workers.Go(func() { s.answerer(ctx) })
	}
	var ticker sync.WaitGroup
	ticker.Go(func() {
		runtime.LockOSThread() // for good: the thread ends with the goroutine, and its priority with it
		s.stats.realtime(hurry())
		s.ticks(ctx)
	})
	ticker.Wait()
	stop()
	workers.Wait()
	s.finish()
	return nil
}

// hurry has the calling thread run before all that share the CPUs by weight: guests take what there is, and a tick that
// waits for its turn behind them would come tens of milliseconds late. It takes some milliseconds each time, as it would
// anyway. Threads and processes that it makes do not inherit that.
func hurry() error {
	const roundRobin, resetOnFork = 2, 1 // SCHED_RR and SCHED_FLAG_RESET_ON_FORK of linux/sched.h
	return unix.SchedSetAttr(0, &unix.SchedAttr{Size: unix.SizeofSchedAttr, Policy: roundRobin, Flags: resetOnFork, Priority: 1}, 0)
}

// ticks takes a tick at each multiple of the interval since its start. One that comes late is the last that was due.
func (s *Sampler) ticks(ctx context.Context) {
	start, interval := s.clock.Now().Mono, int64(s.cfg.Interval)
	for next := int64(1); s.clock.Wait(ctx, start+next*interval); {
		due := max((s.clock.Now().Mono-start)/interval, next)
		s.tick(start+due*interval, uint64(due-next))
		next = due + 1
	}
}

// finish lets go of everything.
func (s *Sampler) finish() {
	s.mu.Lock()
	_ = s.flush(s.now()) // what is left is told
	s.ended = true
	if n := len(s.ends); n > 0 {
		s.log.Error("the log of metering did not take the ends of lives; the next start ends them", "lives", n)
	}
	var all []*source
	for _, l := range s.lives {
		all = append(all, l.source)
		l.source = nil
	}
	s.mu.Unlock()
	closeAll(all)
	s.sweep.end()
}

// suspended is how much more time than CLOCK_MONOTONIC the host has to have seen between two ticks.
const suspended = 100 * time.Millisecond

// watchSuspend tells when the host was suspended: guests did not run, and no time counts.
func (s *Sampler) watchSuspend() {
	ahead := s.clock.Boottime() - s.clock.Now().Mono
	before := s.sweep.ahead
	s.sweep.ahead = ahead
	if slept := ahead - before; slept > int64(suspended) && s.sweep.round > 1 {
		s.stats.add(&s.stats.now.Suspends, 1)
		s.log.Warn("the host was suspended", "for", time.Duration(slept))
	}
}
