package fifo

import (
	"fmt"
	"syscall"

	"golang.org/x/sys/unix"
)

const (
	// maxCollect is how much one Collect takes: a VMM that floods costs so much work per tick and no more. A full
	// pipe of 1 MiB takes four.
	maxCollect = 256 << 10
	// maxDrain is how much a drain takes: a full pipe, and what came while it was read.
	maxDrain = 4 << 20
	// turnSize is from when on the state is written anew.
	turnSize = 64 << 10
	// bufferSize holds two usual lines.
	bufferSize = 16 << 10
)

// source moves bytes out of the FIFO. Its fields spare the steady state an allocation.
type source struct {
	raw  syscall.RawConn
	call func(fd uintptr)

	to   int   // the file
	at   int64 // where to
	size int
	n    int64
	err  error
}

func (s *source) init(raw syscall.RawConn) {
	s.raw = raw
	s.call = func(fd uintptr) {
		s.n, s.err = unix.Splice(int(fd), nil, s.to, &s.at, s.size, unix.SPLICE_F_NONBLOCK)
	}
}

// move moves up to size bytes to the offset at of the file to. It returns 0 if there are none.
func (s *source) move(to int, at int64, size int) (int, error) {
	s.to, s.err = to, unix.EINTR
	for tries := 0; s.err == unix.EINTR && tries < 100; tries++ {
		s.at, s.size = at, size
		if err := s.raw.Control(s.call); err != nil {
			return 0, err
		}
	}
	if s.err == nil {
		return int(s.n), nil
	}
	if s.err == unix.EAGAIN || s.err == unix.EINTR {
		return 0, nil
	}
	return 0, fmt.Errorf("metrics FIFO: splice: %w", s.err)
}

// collect moves up to maxCollect bytes and decodes them. n is how many they were.
func (c *Collector) collect() (n int, err error) {
	if c.owed {
		if err := c.checkpoint(); err != nil {
			return 0, err
		}
	}
	if c.ended {
		return 0, nil
	}
	for n < maxCollect {
		moved, err := c.pipe.move(int(c.halves[c.current].Fd()), c.end, maxCollect-n)
		if err != nil {
			return n, err
		}
		c.after(moving)
		if moved == 0 {
			break
		}
		c.end += int64(moved)
		n += moved
	}
	if err := c.feed(); err != nil || c.end-c.base < turnSize {
		return n, err
	}
	return n, c.checkpoint()
}

// drain collects until there is nothing, or more than any pipe holds.
func (c *Collector) drain() error {
	for total := 0; total < maxDrain; {
		n, err := c.collect()
		if err != nil || n == 0 {
			return err
		}
		total += n
	}
	return nil
}

// feed decodes what was moved and is not decoded yet.
func (c *Collector) feed() error {
	for c.fed < c.end {
		p := c.buffer[:min(int64(len(c.buffer)), c.end-c.fed)]
		n, err := c.halves[c.current].ReadAt(p, c.fed)
		if n == 0 {
			return err
		}
		c.mu.Lock()
		c.decoder.Feed(p[:n])
		c.mu.Unlock()
		c.fed += int64(n)
		c.after(decoding)
	}
	return nil
}
