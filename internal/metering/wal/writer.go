package wal

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"syscall"
	"time"
)

// writer is what belongs to Run alone. Its window holds frames from the last durable keyframe on, so that another
// segment can be begun with all that is needed to decode it.
type writer struct {
	log     *Log
	window  []byte
	written int // of the window: what the active segment has
	last    int // of the window: where the last durable record begins
	durable int // of the window
	head    Hash
	active  *output
	spare   spare
	temps   int     // files made under a passing name
	final   *output // the reserve, where it is in use
	finals  uint64  // up to here final records are in it
	number  uint64  // of the next segment
	old     *tail   // of the log before Open: to be closed once there is a successor
	retry   time.Time
	out     []byte
}

// Run writes what is appended until ctx ends, then what is left. It returns an error if not all became durable. It has
// to be called once, and everything waits for it.
func (l *Log) Run(ctx context.Context) error {
	w := l.newWriter()
	timer := time.NewTicker(l.opt.Retry)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return w.finish()
		case <-l.wake:
		case <-timer.C:
		}
		w.commit(time.Now())
	}
}

// commit makes durable what has come in, if the disk does not refuse.
func (w *writer) commit(now time.Time) {
	w.take()
	if w.durable == len(w.window) || now.Before(w.retry) && w.active == nil && !w.finalsWait() {
		return
	}
	before := w.log.abandoned()
	err := w.flush()
	if err != nil && w.log.abandoned() > before {
		err = w.flush() // on another segment
	}
	if err != nil {
		w.retry = now.Add(w.log.opt.Retry)
		if errors.Is(err, syscall.ENOSPC) {
			err = errors.Join(err, w.writeFinals())
		}
	}
	w.log.outcome(err)
	if err == nil {
		w.trim()
		w.prepare()
	}
}

// take moves what has come in to the window, and makes it part of the chain.
func (w *writer) take() {
	l := w.log
	start := len(w.window)
	l.mu.Lock()
	w.window = append(w.window, l.incoming...)
	l.incoming = l.incoming[:0]
	l.mu.Unlock()
	for at := start; at < len(w.window); {
		f, size := nextFrame(w.window[at:])
		f.link(w.head)
		w.head = f.hash()
		at += size
	}
}

// flush writes the window's rest, over as many segments as it takes.
func (w *writer) flush() error {
	for w.durable < len(w.window) {
		if w.active == nil || w.active.full(w.window[w.written:]) {
			if err := w.begin(); err != nil {
				return err
			}
		}
		if err := w.put(); err != nil {
			w.abandon()
			return err
		}
		if w.written > w.durable { // it may have repeated what is durable elsewhere
			w.durable = w.written
			w.publish()
		}
	}
	return nil
}

// put writes what fits into the active segment, and syncs.
func (w *writer) put() error {
	w.out = w.out[:0]
	last := 0
	w.out, last, w.written = w.active.fill(w.out, w.window, w.written)
	if err := w.active.write(w.out); err != nil {
		return err
	}
	if err := w.active.appear(w.log.dir); err != nil {
		return err
	}
	w.last = last
	return nil
}

// begin makes another segment the active one. It begins with the last keyframe before what is to be written.
func (w *writer) begin() error {
	start := w.keyframe(w.durable)
	first, _ := nextFrame(w.window[start:])
	h := header{number: w.number, first: first.seq(), prev: first.prev(), salt: newSalt(), label: w.log.opt.Label}
	name, file, err := w.takeSpare()
	if err != nil {
		return fmt.Errorf("new segment: %w", err)
	}
	w.number++
	if w.active != nil {
		w.log.resize(w.active.number, w.active.seal())
	}
	w.active = &output{header: h, file: file, size: w.log.opt.SegmentBytes, temporary: name}
	w.written = start
	return nil
}

// keyframe is where the last keyframe is that does not begin after at.
func (w *writer) keyframe(at int) int {
	last := 0
	for i := 0; i < len(w.window) && i <= at; {
		f, size := nextFrame(w.window[i:])
		if f.keyframe() {
			last = i
		}
		i += size
	}
	return last
}

// abandon leaves the active segment as it is, for ever.
func (w *writer) abandon() {
	w.active.abandon(w.log.dir)
	w.active = nil
	w.log.mu.Lock()
	w.log.status.Abandoned++
	w.log.mu.Unlock()
}

func (l *Log) abandoned() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.status.Abandoned
}

// publish tells what is durable now.
func (w *writer) publish() {
	last, _ := nextFrame(w.window[w.last:])
	l := w.log
	l.mu.Lock()
	if n := len(l.segments); n == 0 || l.segments[n-1].number != w.active.number {
		l.segments = append(l.segments, segment{header: w.active.header, size: int64(w.active.size)})
	}
	l.waiting = len(w.window) - w.durable + len(l.incoming)
	l.durable, l.head = last.seq(), last.hash()
	if w.active.off > l.opt.SegmentBytes*3/4 {
		l.keyframe = true
	}
	l.notify()
	l.mu.Unlock()
	w.succeed()
}

// succeed ends what is needed no more once a segment holds everything.
func (w *writer) succeed() {
	if w.old != nil {
		w.log.resize(w.old.number, w.old.close(w.log.dir))
		w.old = nil
	}
	if w.final != nil && w.durable == len(w.window) {
		w.final.leave(w.log.dir)
		w.log.forget(w.final.number)
		w.final = nil
		makeReserve(w.log.dir, w.log.opt.ReserveBytes)
	}
}

// trim forgets what is before the last durable keyframe.
func (w *writer) trim() {
	start := w.keyframe(w.last)
	if start == 0 {
		return
	}
	w.window = append(w.window[:0], w.window[start:]...)
	w.written, w.durable, w.last = w.written-start, w.durable-start, w.last-start
}

// outcome tells how the last attempt to write went.
func (l *Log) outcome(err error) {
	l.mu.Lock()
	l.status.Err, l.status.Full = err, errors.Is(err, syscall.ENOSPC)
	l.mu.Unlock()
}

func (l *Log) resize(number uint64, size int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.segments = slices.Clone(l.segments) // readers hold the other one
	for i := range l.segments {
		if l.segments[i].number == number {
			l.segments[i].size = size
		}
	}
	if l.thin == nil {
		return
	}
	select {
	case l.thin <- struct{}{}:
	default:
	}
}

func (l *Log) forget(number uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.segments = slices.DeleteFunc(slices.Clone(l.segments), func(s segment) bool { return s.number == number })
}

// finish writes what is left and ends the log.
func (w *writer) finish() error {
	l := w.log
	l.mu.Lock()
	l.closed = true
	l.mu.Unlock()
	w.retry = time.Time{}
	w.commit(time.Now())
	if w.active != nil {
		l.resize(w.active.number, w.active.seal())
	}
	if w.final != nil {
		w.final.close()
	}
	w.dropSpare()
	l.mu.Lock()
	defer l.mu.Unlock()
	l.ended = true
	l.notify()
	if l.waiting > 0 {
		return fmt.Errorf("records %d to %d are not durable: %w", l.durable+1, l.next-1, l.status.Err)
	}
	return nil
}
