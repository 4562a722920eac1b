package fifo

import (
	"errors"
	"fmt"
	"os"
	"sync"
	"syscall"

	"github.com/unkeyed/unkey/go/deploy/metald/internal/backend/firecracker/metrics"
)

// Totals are what is known of a VMM's work since it started.
type Totals struct {
	metrics.Totals
	Gaps  []metrics.Gap // of which something is missing, the oldest first; close ones may have become one
	InGap bool          // something is missing since At
	// Partial says that a state was lost: the totals begin in the middle, and what was before is in the first gap.
	Partial bool
	// Ended says that the VMM is gone and nothing will follow.
	Ended bool
}

// Collector adds up what is in one Firecracker's metrics FIFO. Totals and ReadTotals are for any goroutine at any
// time, everything else is for one at a time. At most one Collector of a directory may be at work on a host.
type Collector struct {
	pipe   source
	halves [2]*os.File // nil until it is needed
	dir    string
	doubt  error // why Open could not continue what was before

	current int    // of the halves: the one in use
	seq     uint64 // of its state
	base    int64  // where its state ends, and what was moved begins
	end     int64  // how far it goes
	fed     int64  // how far it is decoded
	owed    bool   // nothing may be moved before the state of now is written
	buffer  []byte
	scratch []byte
	after   func(step) // tests: called between any two steps

	mu      sync.Mutex // guards what follows, and is held for no I/O
	decoder *metrics.Decoder
	partial bool
	ended   bool
}

// Create returns the Collector of a VMM that has not written anything yet. It keeps two files in the directory dir,
// which is there, and replaces those that are; no other account may be able to write there. The pipe is the FIFO,
// open for reading; it stays the caller's, and has to stay open until Close.
func Create(dir string, devices metrics.Devices, pipe *os.File) (*Collector, error) {
	c, err := open(dir, pipe)
	if err != nil {
		return nil, err
	}
	for i := range c.halves { // the second is made when the first is full
		if err := os.Remove(c.name(i)); err != nil && !errors.Is(err, os.ErrNotExist) {
			return nil, err
		}
	}
	if c.decoder, err = metrics.New(devices); err == nil {
		err = c.checkpoint()
	}
	if err != nil {
		return nil, errors.Join(err, c.release())
	}
	return c, nil
}

// Open continues what a Collector of before left in dir, killed or not. If that can't be read, or is of other
// devices, the totals are partial, a gap from the beginning says so, and Doubt says why. The error is only about what
// the host would not do.
func Open(dir string, devices metrics.Devices, pipe *os.File) (*Collector, error) {
	return reopen(dir, devices, pipe, func(step) {})
}

func reopen(dir string, devices metrics.Devices, pipe *os.File, after func(step)) (*Collector, error) {
	c, err := open(dir, pipe)
	if err != nil {
		return nil, err
	}
	for i := range c.halves {
		if _, err := c.half(i); err != nil {
			return nil, errors.Join(err, c.release())
		}
	}
	c.after = after
	if err := c.restore(devices); err != nil {
		return nil, errors.Join(err, c.release())
	}
	return c, nil
}

// Doubt is why what was before Open could not be continued, or not in full; nil if it could. It is for a log: the
// totals have a gap for it.
func (c *Collector) Doubt() error { return c.doubt }

// Collect takes what is in the FIFO, up to 256 KiB, and does not block. After an error nothing is lost, and the next
// call goes on. A VMM that ended is no error.
func (c *Collector) Collect() error {
	_, err := c.collect()
	return err
}

// Missed is told that a flush was refused because the pipe was full: numbers that were already handed over are gone.
// It takes what is in the FIFO and marks what follows as incomplete. It does not have to be told for the totals to be
// honest, since a refused flush leaves a torn line in the stream, too; but until the next line comes only it knows.
func (c *Collector) Missed() error {
	err := c.drain()
	c.mu.Lock()
	if !c.ended {
		c.decoder.Lost()
	}
	c.mu.Unlock()
	return errors.Join(err, c.checkpoint())
}

// End takes what is left after the VMM is gone, and makes the totals final. A VMM that exited in good order wrote a
// last line; of one that was killed (orderly is false) the work since its last line is not known, and a gap says so.
// End may be repeated.
func (c *Collector) End(orderly bool) error {
	if err := c.drain(); err != nil || c.ended {
		return err
	}
	c.mu.Lock()
	if !orderly {
		c.decoder.Lost()
	}
	c.decoder.End()
	c.ended = true
	c.mu.Unlock()
	return c.checkpoint()
}

// Close takes what is in the FIFO and lets go of the files, for the next Open. Totals can still be read.
func (c *Collector) Close() error { return errors.Join(c.drain(), c.release()) }

func (c *Collector) release() error {
	var err error
	for _, f := range c.halves {
		if f != nil {
			err = errors.Join(err, f.Close())
		}
	}
	return err
}

// Totals returns a copy.
func (c *Collector) Totals() Totals {
	var t Totals
	c.ReadTotals(&t)
	return t
}

// ReadTotals is Totals into t, whose maps and slices are used again.
func (c *Collector) ReadTotals(t *Totals) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.decoder.ReadTotals(&t.Totals)
	t.Gaps = c.decoder.AppendGaps(t.Gaps[:0])
	t.InGap, t.Partial, t.Ended = c.decoder.InGap(), c.partial, c.ended
}

func open(dir string, pipe *os.File) (*Collector, error) {
	raw, err := pipe.SyscallConn()
	if err != nil {
		return nil, fmt.Errorf("metrics FIFO: %w", err)
	}
	c := &Collector{dir: dir, buffer: make([]byte, bufferSize), after: func(step) {}}
	c.pipe.init(raw)
	return c, nil
}

func (c *Collector) name(i int) string { return fmt.Sprintf("%s/metrics.%d", c.dir, i) }

// half opens one of the files, and makes it where it is missing.
func (c *Collector) half(i int) (*os.File, error) {
	if c.halves[i] != nil {
		return c.halves[i], nil
	}
	f, err := os.OpenFile(c.name(i), os.O_RDWR|os.O_CREATE|syscall.O_NOFOLLOW, 0o600)
	if err == nil {
		c.halves[i] = f
	}
	return f, err
}
