package wal

import (
	"errors"
	"fmt"
	"os"
)

// Ack says that the records up to seq are somewhere else for good. It returns when that is durable; then the segments
// with nothing later are removed.
func (l *Log) Ack(seq uint64) error {
	l.mu.Lock()
	durable := l.durable
	l.mu.Unlock()
	if seq > durable {
		return fmt.Errorf("acknowledge %d: only %d is durable", seq, durable)
	}
	if err := l.acks.set(seq); err != nil {
		return err
	}
	return l.truncate(seq)
}

// truncate removes segments all of whose records are below or at seq. The last one stays: it has the head of the chain.
func (l *Log) truncate(seq uint64) error {
	l.mu.Lock()
	var keep, gone []segment
	for i, s := range l.segments {
		if l.spent(i) <= seq {
			gone = append(gone, s)
		} else {
			keep = append(keep, s)
		}
	}
	l.segments = keep
	l.mu.Unlock()
	var err error
	for i := range gone {
		if e := l.dir.Remove(gone[i].name()); e != nil && !errors.Is(e, os.ErrNotExist) {
			err = errors.Join(err, e)
		}
	}
	return err
}

// spent is the number whose acknowledgement makes a segment useless. Final records go with the segment that others of
// their numbers would be in. The caller holds mu.
func (l *Log) spent(i int) uint64 {
	s := l.segments[i]
	if s.growing || i == newest(l.segments) {
		return ^uint64(0)
	}
	if !s.finals {
		return limit(l.segments, i)
	}
	best := ^uint64(0)
	for k := range newest(l.segments) {
		if last := limit(l.segments, k); !l.segments[k].finals && last >= s.through {
			best = min(best, last)
		}
	}
	return best
}
