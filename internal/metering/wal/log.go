package wal

import (
	"errors"
	"fmt"
	"sync"
	"time"
)

// Errors of Append. After each of them the record is not in the log, and has no number.
var (
	// ErrKeyframe: only a keyframe can be taken now. The first record after Open has to be one, unless it is final.
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
	// Last is how long Run waits for the disk at its end: 10 s.
	Last time.Duration
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
	if o.Last == 0 {
		o.Last = 10 * time.Second
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
	fresh    bool   // nothing was appended since Open
	group    int    // bytes since the last keyframe, that one included
	keyed    bool   // there was one since Open
	waiting  int    // bytes that are not durable
	keyframe bool   // one is needed
	closed   bool   // nothing is taken any more
	ended    bool   // Run has returned
	stuck    bool   // without its writer
	segments []segment
	durable  uint64
	finals   uint64 // up to here final records are durable
	headAt   uint64 // the last durable record that there is
	head     Hash   // of the record headAt
	status   Status
	changed  chan struct{} // made by who waits, closed at the next change
	thin     chan struct{} // told when segments came to be
}

// segment is what is known of one without reading it.
type segment struct {
	header
	size      int64
	through   uint64 // the last record of a segment of final records
	growing   bool   // the log writes more of them into it
	unsettled bool   // what was found in it at Open could not be made durable again
	bad       bool   // can't be made coarser
}

// Head returns the number and the hash of the last durable record that there is.
func (l *Log) Head() (seq uint64, hash Hash) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.headAt, l.head
}

// Recovery is what Open found.
func (l *Log) Recovery() Recovery { return l.start }

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
