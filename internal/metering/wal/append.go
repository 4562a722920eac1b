package wal

import "context"

// Record is one record of a log.
type Record struct {
	// Seq is the record's number; they go up by one. First is the first one that the record stands for: below Seq in a
	// record that was made coarser.
	Seq, First uint64
	// Type is the user's, and nothing to the log.
	Type byte
	// Keyframe: the record can be decoded without another. A segment begins with one.
	Keyframe bool
	// Final: there is room for the record where there is none for others. It must be decodable alone, and no other
	// record may need it.
	Final bool
	// Level is how often the record was made coarser.
	Level int
	Body  []byte
}

// Append takes a record; Type, Keyframe, Final and Body count. The body is copied. It never waits for the disk, and
// once the buffers have grown it allocates nothing. The number that it returns is the record's; whether it is durable
// is told by Wait and Head.
func (l *Log) Append(r Record) (seq uint64, err error) {
	l.mu.Lock()
	if err := l.admit(r); err != nil {
		l.mu.Unlock()
		return 0, err
	}
	var flags byte
	size := frameSize(len(r.Body))
	if r.Keyframe {
		flags |= flagKeyframe
		l.group, l.keyframe, l.keyed = 0, false, true
	}
	if r.Final {
		flags |= flagFinal
	}
	seq = l.next
	l.incoming = appendFrame(l.incoming, seq, 1, flags, r.Type, r.Body)
	l.next++
	l.fresh = false
	l.group += size
	l.waiting += size
	l.mu.Unlock()
	select {
	case l.wake <- struct{}{}:
	default:
	}
	return seq, nil
}

// admit says why a record can't be taken.
func (l *Log) admit(r Record) error {
	size, room, group := frameSize(len(r.Body)), l.opt.PendingBytes, l.maxGroup()
	if r.Final {
		room += finalRoom
		group += group / 4 // for when no keyframe can be taken
	}
	switch {
	case l.closed:
		return ErrClosed
	case size > l.maxFrame():
		return ErrTooLarge
	case l.waiting+size > room:
		l.keyframe = true
		return ErrBehind
	case !r.Keyframe && l.group+size > group, !r.Keyframe && !r.Final && !l.keyed:
		l.keyframe = true
		return ErrKeyframe
	}
	return nil
}

// maxFrame leaves room in a segment for the parity of four such frames.
func (l *Log) maxFrame() int { return (l.opt.SegmentBytes - firstFrame) / 12 }

// maxGroup is how long a keyframe and what follows it may be: it is written again, with its parity, when a segment
// can't be used any more, and has to fit into one.
func (l *Log) maxGroup() int { return (l.opt.SegmentBytes - firstFrame) / 3 }

// NeedsKeyframe says that the next record had better be a keyframe: the segment is almost full, or what would have to
// be written again is long.
func (l *Log) NeedsKeyframe() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.keyframe || !l.keyed || l.group > l.maxGroup()/2
}

// Wait waits until the record is durable, with all before it.
func (l *Log) Wait(ctx context.Context, seq uint64) error {
	return l.wait(ctx, func() bool { return l.durable >= seq })
}

// WaitFinal waits until a final record is durable. Those before it may not be yet.
func (l *Log) WaitFinal(ctx context.Context, seq uint64) error {
	return l.wait(ctx, func() bool { return max(l.durable, l.finals) >= seq })
}

func (l *Log) wait(ctx context.Context, done func() bool) error {
	for {
		l.mu.Lock()
		ok, closed, changed := done(), l.ended, l.change()
		l.mu.Unlock()
		if ok {
			return nil
		}
		if closed {
			return ErrClosed
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}
