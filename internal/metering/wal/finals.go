package wal

import (
	"errors"
	"fmt"
	"slices"
)

// errInUse is why no room is put aside while it holds records.
var errInUse = errors.New("it is used, or was, and no other one is made yet")

// finalsWait says that there are final records of which none is durable.
func (w *writer) finalsWait() bool {
	_, _, any := w.unwrittenFinals(nil, 0)
	return any
}

// writeFinals writes final records, and nothing else, to the room that was put aside. They are written again when there
// is room for everything, and that segment then has them, too.
func (w *writer) writeFinals() error {
	first, _, any := w.unwrittenFinals(nil, 0)
	if !any {
		return nil
	}
	if w.final == nil {
		if err := w.useReserve(first); err != nil {
			return err
		}
	}
	base := w.final.off
	w.out = w.out[:0]
	if base == 0 {
		w.out = append(w.out, w.final.block()...)
	}
	_, last, any := w.unwrittenFinals(&w.out, w.final.size-base)
	if !any {
		return nil
	}
	err := w.final.write(w.out)
	if err == nil {
		err = w.final.appear(w.log.dir)
	}
	if err != nil { // never to be written again
		w.giveUpReserve()
		return err
	}
	w.publishFinals(last.seq())
	return nil
}

// unwrittenFinals finds the final records that are not durable, and appends them to out, sealed for the reserve, as
// far as room reaches.
func (w *writer) unwrittenFinals(out *[]byte, room int) (first, last frame, any bool) {
	for at := w.durable; at < len(w.window); {
		f, size := nextFrame(w.window[at:])
		at += size
		if !f.final() || f.seq() <= w.finals {
			continue
		}
		if out != nil {
			if len(*out)+size > room {
				break
			}
			start := len(*out)
			*out = append(*out, w.window[at-size:at]...)
			frame((*out)[start : start+len(f)]).seal(w.final.salt)
		}
		if first == nil {
			first = f
		}
		last, any = f, true
	}
	return first, last, any
}

func (w *writer) useReserve(first frame) error {
	if err := w.tendReserve(); err != nil {
		return fmt.Errorf("room for final records: %w", err)
	}
	file, err := w.log.dir.Open(reserveName)
	if err != nil {
		return err
	}
	h := header{finals: true, number: w.number, first: first.seq(), prev: first.prev(), salt: newSalt(), label: w.log.opt.Label}
	w.number++
	w.final = &output{header: h, file: file, size: w.log.opt.ReserveBytes, temporary: reserveName}
	w.log.reserve(errInUse)
	return nil
}

// giveUpReserve leaves the segment of final records as it is. There may be room for another one.
func (w *writer) giveUpReserve() {
	w.final.abandon(w.log.dir)
	w.log.settled(w.final.number)
	w.final = nil
	w.log.reserve(errInUse)
}

// endReserve ends the use of the reserve, all of whose records are in a segment now, and puts room aside again.
func (w *writer) endReserve() {
	w.final.leave(w.log.dir)
	w.log.forget(w.final.number)
	w.final = nil
	w.log.reserve(errInUse)
	w.tendReserve()
}

// tendReserve puts room aside where there is none.
func (w *writer) tendReserve() error {
	if w.final != nil || w.log.Status().ReserveErr == nil {
		return nil
	}
	err := makeReserve(w.log.dir, w.log.opt.ReserveBytes)
	w.log.reserve(err)
	return err
}

func (l *Log) reserve(err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.status.ReserveErr = err
}

func (w *writer) publishFinals(seq uint64) {
	w.finals = seq
	l := w.log
	l.mu.Lock()
	defer l.mu.Unlock()
	l.segments = slices.DeleteFunc(slices.Clone(l.segments), func(s segment) bool { return s.number == w.final.number })
	l.segments = append(l.segments, segment{header: w.final.header, size: int64(w.final.size), through: seq, growing: true})
	l.finals = seq
	l.notify()
}

// settled notes that a segment of final records gets no more of them.
func (l *Log) settled(number uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.segments = slices.Clone(l.segments)
	for i := range l.segments {
		if l.segments[i].number == number {
			l.segments[i].growing = false
		}
	}
}
