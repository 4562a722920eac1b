package wal

import (
	"errors"
	"fmt"
	"sync"
	"time"
)

// Errors of Append. After each of them the record is not in the log, and has no number.
var (
	// ErrKeyframe: only a keyframe can be taken now. The first record after Open has to be one.
	ErrKeyframe = errors.New("the log takes a keyframe next")
	// ErrBehind: the disk took nothing for so long that memory for what waits is used up.
	ErrBehind = errors.New("the log waits for its disk and has no more memory for records")
	// ErrTooLarge: no record may be so large.
	ErrTooLarge = errors.New("record is too large for a segment")
	// ErrClosed: the log has ended.
	ErrClosed = errors.New("the log is closed")
)

// Options of a log. Zero values are replaced by what is said.
type Options struct {
	// SegmentBytes is the size of a segment: 16 MiB.
	SegmentBytes int
	// PendingBytes bounds what may wait for the disk: 32 MiB, a minute of 1,000 busy VMs. Final records may use
	// 1 MiB more.
	PendingBytes int
	// ReserveBytes is the room put aside for final records: 1 MiB.
	ReserveBytes int
	// QuotaBytes is how large the log may become; at four fifths of it the oldest records are made coarser, if there
	// is a Thinner. Zero is no quota.
	QuotaBytes int64
	// Retry is how long the log waits between two attempts at a disk that refuses: 1 s.
	Retry time.Duration
	// Label is put into each segment's header, for people and readers: which host it is of. At most MaxLabel bytes.
	Label []byte
	// Thin makes records coarser.
	Thin Thinner
}

const (
	finalRoom  = 1 << 20
	minSegment = firstFrame + 8<<10
)

func (o Options) withDefaults() (Options, error) {
	if o.SegmentBytes == 0 {
		o.SegmentBytes = 16 << 20
	}
	if o.PendingBytes == 0 {
		o.PendingBytes = 32 << 20
	}
	if o.ReserveBytes == 0 {
		o.ReserveBytes = 1 << 20
	}
	if o.Retry == 0 {
		o.Retry = time.Second
	}
	if o.SegmentBytes < minSegment || o.ReserveBytes < minSegment || o.PendingBytes < 0 || o.QuotaBytes < 0 {
		return o, fmt.Errorf("segment of %d, reserve of %d bytes: at least %d", o.SegmentBytes, o.ReserveBytes, minSegment)
	}
	if len(o.Label) > MaxLabel {
		return o, fmt.Errorf("label of %d bytes: at most %d", len(o.Label), MaxLabel)
	}
	return o, nil
}

// Log is an open write-ahead log. Append, NeedsKeyframe, Wait, Head, Status, Ack and NewReader are for any goroutine
// at any time.
type Log struct {
	dir   Dir
	close func() error
	opt   Options
	wake  chan struct{}
	acks  acks
	start Recovery

	mu       sync.Mutex
	incoming []byte // frames that Run has not taken
	next     uint64 // number of the next record
	group    int    // bytes since the last keyframe, that one included
	waiting  int    // bytes that are not durable
	keyframe bool   // one is needed
	closed   bool   // nothing is taken any more
	ended    bool   // Run has returned
	segments []segment
	durable  uint64
	finals   uint64 // up to here final records are durable
	head     Hash   // of the record durable
	status   Status
	changed  chan struct{} // made by who waits, closed at the next change
	thin     chan struct{} // told when segments came to be
}

// segment is what is known of one without reading it.
type segment struct {
	header
	size    int64
	reserve bool
	bad     bool // could not be made coarser
}

// Status is how a log is.
type Status struct {
	Durable uint64 // number of the last record of which all before are durable, too
	Next    uint64 // number that the next record gets
	Acked   uint64
	Bytes   int64 // on the disk
	Pending int   // bytes that are not durable
	// Abandoned is how many segments were left because of an error since Open.
	Abandoned int
	// Full: the disk has no room. Final records go to what was put aside.
	Full bool
	// OverQuota: the log is larger than its quota and nothing more can be made coarser.
	OverQuota bool
	// Err is why the last attempt to write failed, nil once one succeeded.
	Err error
}

// Head returns the number and the hash of the last durable record.
func (l *Log) Head() (seq uint64, hash Hash) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.durable, l.head
}

// Status returns how the log is.
func (l *Log) Status() Status {
	acked := l.acks.get()
	l.mu.Lock()
	defer l.mu.Unlock()
	s := l.status
	s.Durable, s.Next, s.Acked, s.Pending, s.Bytes = l.durable, l.next, acked, l.waiting, l.bytes()
	return s
}

// Recovery is what Open found.
func (l *Log) Recovery() Recovery { return l.start }

func (l *Log) bytes() int64 {
	var n int64
	for i := range l.segments {
		n += l.segments[i].size
	}
	return n
}

// notify wakes who waits for a change. The caller holds mu.
func (l *Log) notify() {
	if l.changed != nil {
		close(l.changed)
		l.changed = nil
	}
}

// change returns a channel that is closed at the next change. The caller holds mu.
func (l *Log) change() <-chan struct{} {
	if l.changed == nil {
		l.changed = make(chan struct{})
	}
	return l.changed
}
