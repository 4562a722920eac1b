package sampler

import (
	"context"
	"time"

	"github.com/unkeyed/unkey/go/deploy/metald/internal/backend/types"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/metering/usage"
)

// How often a machine is asked whose VMM has run since the last answer; how long it may take; and how long one is left
// alone that does not answer.
const (
	askEvery   = time.Second
	askTimeout = time.Second
	askLater   = 10 * time.Second
)

// ask is a question for what only the machine knows. It is guarded by source.mu.
type ask struct {
	under    bool  // way
	next     int64 // not before
	wait     time.Duration
	answered bool // and not read yet
	answer   types.Usage
}

// readAnswer takes what was answered since the last tick. It is of this one: what was used since is in the next answer.
// While the VMM's clock stands still it stays true. want says that it is time to ask again.
func (c *source) readAnswer(r *usage.Reading, now int64, full bool) (want bool) {
	cpu, clocked := r.Value(usage.CPU)
	if c.ask.answered {
		c.ask.answered = false
		c.take(r, cpu, clocked)
	} else if c.disksOK && clocked && cpu == c.disksCPU {
		if c.counter == nil {
			putDisks(r, c.disks)
		}
		if !full || !c.atHand { // to be asked is work, for a VMM that has none
			return false
		}
	}
	return !c.ask.under && now >= c.ask.next
}

// take puts an answer into r.
func (c *source) take(r *usage.Reading, cpu uint64, clocked bool) {
	u := c.ask.answer
	c.ask.answer = types.Usage{}
	if c.pid == 0 {
		told := reading(types.Usage{CPUTime: u.CPUTime, MemoryBytes: u.MemoryBytes}, types.Spec{})
		for _, f := range []usage.Field{usage.CPU, usage.Resident} {
			if v, ok := told.Value(f); ok {
				r.Put(f, v)
			}
		}
	}
	if c.taps == nil {
		if n, ok := netSum(u.Networks, c.spec.Networks); ok {
			putNet(r, n)
		}
	}
	if c.counter != nil {
		return
	}
	if d, ok := diskSum(u.Disks, c.spec.Disks); ok {
		putDisks(r, d)
		c.disks, c.disksCPU, c.disksOK = d, cpu, clocked
	}
}

// beginAsk notes that a question is under way; false if there is none to ask.
func (c *source) beginAsk() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed || c.ask.under {
		return false
	}
	c.ask.under = true
	return true
}

func (c *source) forgetAsk() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.ask.under = false
}

// answer notes what came of a question that was asked at began.
func (c *source) answer(u types.Usage, err error, began int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.ask.under = false
	every := askEvery
	if c.atHand {
		every = 0
	}
	if err != nil {
		c.ask.wait = min(max(2*c.ask.wait, askEvery), askLater)
		c.ask.next = began + int64(c.ask.wait)
		return
	}
	c.ask.wait, c.ask.next = 0, began+int64(every)
	c.ask.answer, c.ask.answered = u, true
}

// answerer asks machines until ctx ends.
func (s *Sampler) answerer(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case c := <-s.asks:
			began := s.clock.Now().Mono
			limit, cancel := context.WithTimeout(ctx, askTimeout)
			u, err := c.machine.Usage(limit)
			cancel()
			c.answer(u, err, began)
			s.stats.asked(err)
		}
	}
}
