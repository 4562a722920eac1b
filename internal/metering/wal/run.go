package wal

import (
	"context"
	"errors"
	"fmt"
	"syscall"
	"time"
)

// Run writes what is appended until ctx ends, then what is left. It returns an error if not all became durable, which
// says what did not. It has to be called once, and everything waits for it.
//
// A system call on a disk that does not answer can't be ended. Where one takes longer than Options.Last at the end, Run
// returns without it, and Close keeps the directory locked for as long as the process lives.
func (l *Log) Run(ctx context.Context) error {
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		l.newWriter().run(ctx)
	}()
	<-ctx.Done()
	last := time.NewTimer(l.opt.Last)
	defer last.Stop()
	select {
	case <-ended:
		return l.end(nil)
	case <-last.C:
		return l.end(fmt.Errorf("the disk did not answer for %v", l.opt.Last))
	}
}

// end is the end of the log: whoever waits is told.
func (l *Log) end(stuck error) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.closed, l.ended, l.stuck = true, true, stuck != nil
	l.notify()
	if l.waiting > 0 || stuck != nil {
		return fmt.Errorf("records %d to %d are not durable: %w", l.durable+1, l.next-1, errors.Join(stuck, l.status.Err))
	}
	return nil
}

func (w *writer) run(ctx context.Context) {
	timer := time.NewTicker(w.log.opt.Retry)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			w.finish()
			return
		case <-w.log.wake:
		case <-timer.C:
			w.tendReserve()
		}
		w.commit(time.Now())
	}
}

// commit makes durable what has come in, if the disk does not refuse.
func (w *writer) commit(now time.Time) {
	w.take()
	if w.durable == len(w.window) || now.Before(w.retry) && !w.finalsWait() {
		return
	}
	before := w.log.abandoned()
	err := w.flush()
	if err != nil && w.log.abandoned() > before {
		err = w.flush() // on another segment
	}
	if err != nil {
		w.retry = now.Add(w.log.opt.Retry)
		err = errors.Join(err, w.writeFinals())
	}
	w.log.outcome(err)
	if w.durable > 0 {
		w.trim()
	}
	if err == nil {
		w.prepare()
	}
}

// outcome tells how the last attempt to write went.
func (l *Log) outcome(err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.status.Err, l.status.Full = err, errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT)
}

// finish writes what is left.
func (w *writer) finish() {
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
		l.settled(w.final.number)
	}
	w.dropSpare()
}
