package record

import (
	"slices"

	"github.com/unkeyed/unkey/go/deploy/metald/internal/metering/usage"
)

// coarseSink is a Coarse that takes what its records say.
type coarseSink Coarse

func (s *coarseSink) Table(at usage.Time, open []Open) {
	c := (*Coarse)(s)
	if c.expected(open) {
		c.pass()
		return
	}
	c.flush(true)
	c.missing = false
	c.put(c.now)
	c.lives = c.lives[:0]
	for i := range open {
		c.lives = append(c.lives, &stretch{epoch: open[i].Life.Incarnation.Epoch, before: open[i].Meter, after: open[i].Meter})
	}
}

// expected says whether a keyframe has nothing that the records before it have not.
func (c *Coarse) expected(open []Open) bool {
	if !c.started && c.next == c.now.First || c.missing || len(open) != len(c.lives) {
		return false
	}
	for i, s := range c.lives {
		if s.epoch != open[i].Life.Incarnation.Epoch || s.after != open[i].Meter {
			return false
		}
	}
	return true
}

func (s *coarseSink) Begin(l usage.Life) {
	c := (*Coarse)(s)
	epoch := l.Incarnation.Epoch
	if !c.missing {
		m := *l.Meter()
		i, ok := c.find(epoch)
		if ok {
			c.lives = slices.Delete(c.lives, i, i+1)
		}
		c.lives = slices.Insert(c.lives, i, &stretch{epoch: epoch, before: m, after: m, fresh: true})
	}
	c.keep()
}

func (s *coarseSink) Enter(epoch uint64, at usage.Time, state usage.State) {
	c := (*Coarse)(s)
	i, ok := c.find(epoch)
	if ok && c.level > 1 {
		c.pass()
		c.lives[i].after.Enter(at, state, nil)
		return
	}
	if ok {
		c.settle(c.lives[i])
		c.lives[i].after.Enter(at, state, nil)
		c.lives[i].before = c.lives[i].after
	}
	c.keep()
}

func (s *coarseSink) Sample(epoch uint64, sample usage.Sample) {
	c := (*Coarse)(s)
	c.first(sample.At)
	if i, ok := c.find(epoch); ok {
		c.lives[i].after.Add(sample, nil, nil)
	}
}

func (s *coarseSink) Thin(epoch uint64, l usage.Leap) {
	c := (*Coarse)(s)
	c.first(l.After.Totals.At)
	if i, ok := c.find(epoch); ok {
		c.lives[i].after = l.After
	}
}

// first goes on to a new record, once for each.
func (c *Coarse) first(at usage.Time) {
	if !c.told {
		c.told = true
		c.progress(at)
	}
	if at.Mono > c.at.Mono {
		c.at = at
	}
}

func (s *coarseSink) End(e usage.End) {
	c := (*Coarse)(s)
	if i, ok := c.find(e.Life.Incarnation.Epoch); ok {
		c.settle(c.lives[i])
		c.lives = slices.Delete(c.lives, i, i+1)
	}
	c.keep()
}

func (s *coarseSink) Signed(Signature) { (*Coarse)(s).keep() }
