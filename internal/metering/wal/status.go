package wal

import (
	"math/bits"
	"time"
)

// Status is how a log is.
type Status struct {
	Durable  uint64 // number of the last record of which all before are durable, too
	Next     uint64 // number that the next record gets
	Acked    uint64
	Bytes    int64 // of the segments
	Segments int
	Pending  int // bytes that are not durable
	// Abandoned is how many segments were left because of an error since Open.
	Abandoned int
	// Full: the disk has no room. Final records go to what was put aside.
	Full bool
	// OverQuota: the log is larger than its quota. It stays so if nothing more can be made coarser.
	OverQuota bool
	// Err is why the last attempt to write failed, nil once one succeeded.
	Err error
	// ReserveErr is why no room is put aside for final records, nil once there is.
	ReserveErr error
	// ThinErr is why the last attempt to make records coarser failed, nil once one succeeded.
	ThinErr error
	Commits Latency
}

// Latency is how long writes and their syncs took.
type Latency struct {
	Last, Max time.Duration
	Sum       time.Duration
	// Below counts those that took less than 2^i times 128 us, and not less than the one before; the last one has all
	// that took longer, too.
	Below [16]uint64
}

func (t *Latency) add(d time.Duration) {
	t.Last, t.Max, t.Sum = d, max(t.Max, d), t.Sum+d
	t.Below[min(bits.Len64(uint64(d/(128*time.Microsecond))), len(t.Below)-1)]++
}

// Status returns how the log is.
func (l *Log) Status() Status {
	acked := l.acks.get()
	l.mu.Lock()
	defer l.mu.Unlock()
	s := l.status
	s.Durable, s.Next, s.Acked, s.Pending, s.Bytes, s.Segments = l.durable, l.next, acked, l.waiting, l.bytes(), len(l.segments)
	s.OverQuota = l.opt.QuotaBytes > 0 && s.Bytes > l.opt.QuotaBytes
	return s
}

func (l *Log) bytes() int64 {
	var n int64
	for i := range l.segments {
		n += l.segments[i].size
	}
	return n
}

// took notes how long a write and its sync took.
func (l *Log) took(d time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.status.Commits.add(d)
}
