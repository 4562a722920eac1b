package wal

import (
	"fmt"
	"slices"
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
	start := time.Now()
	err := w.active.write(w.out)
	w.log.took(time.Since(start))
	if err != nil {
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
	if w.old != nil { // before it may be made coarser
		l.resize(w.old.number, w.old.close(l.dir))
		w.old = nil
	}
	l.mu.Lock()
	if i := newest(l.segments); i < 0 || l.segments[i].number != w.active.number {
		l.segments = append(l.segments, segment{header: w.active.header, size: int64(w.active.size)})
	}
	l.waiting = len(w.window) - w.durable + len(l.incoming)
	l.durable, l.headAt, l.head = last.seq(), last.seq(), last.hash()
	if w.active.off > l.opt.SegmentBytes*3/4 {
		l.keyframe = true
	}
	l.notify()
	l.mu.Unlock()
	if w.final != nil && w.durable == len(w.window) {
		w.endReserve()
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
