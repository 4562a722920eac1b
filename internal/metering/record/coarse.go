package record

import (
	"fmt"
	"slices"

	"github.com/unkeyed/unkey/go/deploy/metald/internal/metering/usage"
)

// Numbered is a record with the numbers that it stands for in the log.
type Numbered struct {
	First, Seq      uint64
	Type            byte
	Keyframe, Final bool
	Body            []byte
}

// Coarse makes the records of one segment coarser: the ticks of a stretch of time become one record, with what was used
// in it exactly. Level 1 has one a second, level 2 one a minute, and level 3 one for the whole segment. Begin, End and
// Signed stay as they are, Enter at level 1; beyond it what was entered is in the times that a leap has. Keyframes stay
// where they begin the segment or follow a loss, or do not say what was expected. It is for one goroutine.
type Coarse struct {
	level int
	emit  func(Numbered) error
	err   error // of emit
	dec   Decoder

	now     Numbered   // the record that is being decoded
	told    bool       // something of it was read of an incarnation
	started bool       // something was emitted
	next    uint64     // the first number that nothing was emitted for
	last    uint64     // the last that was taken
	missing bool       // what is between next and last is lost
	run     []Numbered // records that stay, at the end of what was taken
	before  []leap     // what has to be known before the run, in order of epoch
	lives   []*stretch // in order of epoch
	window  int64      // that the stretch lies in
	at      usage.Time // of the last tick
	begun   bool       // at is known
	buf     []byte
}

// stretch is what an incarnation did since a record said so.
type stretch struct {
	epoch         uint64
	before, after usage.Meter
	fresh         bool // it began in the run
}

// NewCoarse makes records coarser, from level-1 to level, and gives them to emit, in order; bodies are emit's until it
// returns. An error of emit ends it.
func NewCoarse(level int, emit func(Numbered) error) *Coarse {
	return &Coarse{level: level, emit: emit}
}

// Record takes the next record of the segment.
func (c *Coarse) Record(r Numbered) error {
	c.follow(r.First)
	c.now, c.told = r, false
	whole := c.dec.whole
	err := c.dec.Decode(r.Type, r.Body, (*coarseSink)(c))
	progress := r.Type == TypeTick || r.Type == TypeThin
	switch {
	case c.err != nil:
		return c.err
	case err != nil || r.Type == TypeLost || !whole && (progress || r.Type == TypeEnter):
		c.miss()
	case progress: // perhaps of no incarnation
		c.pass()
	}
	c.last = r.Seq
	return c.err
}

// Lost says that records can't be read.
func (c *Coarse) Lost(first, last uint64) error {
	c.follow(first)
	c.dec.Lost()
	c.miss()
	c.last = last
	return c.err
}

// Close emits what is left.
func (c *Coarse) Close() error {
	c.flush(true)
	return c.err
}

func (c *Coarse) follow(first uint64) {
	if c.next == 0 {
		c.next, c.last = first, first-1
	}
	if first != c.last+1 && c.err == nil {
		c.err = fmt.Errorf("record %d follows %d", first, c.last)
	}
}

// miss has what comes next counted as lost.
func (c *Coarse) miss() {
	if !c.missing || len(c.run) > 0 {
		c.flush(true)
	}
	c.missing = true
	c.lives = c.lives[:0]
}

func (c *Coarse) find(epoch uint64) (int, bool) {
	return slices.BinarySearchFunc(c.lives, epoch, func(s *stretch, epoch uint64) int {
		return compareLeap(leap{epoch: s.epoch}, epoch)
	})
}

// windows are the stretches of each level, in ns; 0 is for all.
var windows = [...]int64{1: 1e9, 2: 60e9, 3: 0}

// progress comes before what was read at at is taken.
func (c *Coarse) progress(at usage.Time) {
	window := int64(0)
	if step := windows[min(c.level, len(windows)-1)]; step > 0 {
		window = usage.Window(at.Mono, step)
	}
	if c.begun && window != c.window {
		c.flush(true)
	}
	c.window, c.at, c.begun = window, at, true
}
