package record

import (
	"fmt"
	"slices"
)

// pass comes before a record is taken that does not stay.
func (c *Coarse) pass() {
	if len(c.run) > 0 {
		c.flush(false)
	}
}

// flush emits what was taken: one record for the stretch, and behind it those that stay. With all it has what each
// incarnation did, else only of those that the ones behind it concern.
func (c *Coarse) flush(all bool) {
	last := c.last
	if len(c.run) > 0 {
		last = c.run[0].First - 1
	}
	if c.next <= last {
		c.emitStretch(last, all)
	} else if c.err == nil && c.owes(all) {
		c.err = fmt.Errorf("no number is left before record %d for what was used", c.next)
	}
	for _, r := range c.run {
		c.put(r)
	}
	c.run, c.before = c.run[:0], c.before[:0]
	for _, s := range c.lives {
		s.fresh = false
	}
}

// owes says whether something was used that is in no record yet.
func (c *Coarse) owes(all bool) bool {
	return slices.ContainsFunc(c.before, func(l leap) bool { return l.before != l.after }) ||
		all && slices.ContainsFunc(c.lives, func(s *stretch) bool { return !s.fresh && s.before != s.after })
}

func (c *Coarse) emitStretch(last uint64, all bool) {
	r := Numbered{First: c.next, Seq: last, Type: TypeThin}
	w := writer{c.buf[:0]}
	if c.missing {
		r.Type = TypeLost
		w.byte(version)
		w.uint(last - c.next + 1)
	} else {
		leaps, ticks := c.leaps(all)
		w.thin(c.at, ticks, all, leaps)
	}
	c.missing = false
	c.buf, r.Body = w.b, w.b
	c.put(r)
}

// leaps are those of the record that is to be emitted, and the ticks that the first of them has.
func (c *Coarse) leaps(all bool) (list []leap, ticks uint64) {
	list = slices.Clone(c.before)
	for _, s := range c.lives {
		i, ok := slices.BinarySearchFunc(list, s.epoch, compareLeap)
		if !all || ok || s.fresh {
			continue
		}
		list = slices.Insert(list, i, leap{s.epoch, s.before, s.after})
		s.before = s.after
	}
	for i := range list {
		ticks = max(ticks, list[i].after.Totals.Next-list[i].before.Totals.Next)
	}
	return list, ticks
}

func (c *Coarse) put(r Numbered) {
	if c.err == nil {
		c.err = c.emit(r)
	}
	c.next, c.started = r.Seq+1, true
}

// keep has the record stay that is being decoded.
func (c *Coarse) keep() {
	r := c.now
	r.Body = slices.Clone(r.Body)
	c.run = append(c.run, r)
}

// settle has what an incarnation did known before the run.
func (c *Coarse) settle(s *stretch) {
	i, ok := slices.BinarySearchFunc(c.before, s.epoch, compareLeap)
	if !ok && !s.fresh {
		c.before = slices.Insert(c.before, i, leap{s.epoch, s.before, s.after})
	}
	s.before = s.after
}

func compareLeap(l leap, epoch uint64) int {
	switch {
	case l.epoch < epoch:
		return -1
	case l.epoch > epoch:
		return 1
	}
	return 0
}
