package firecracker

import (
	"context"
	"errors"
	"os"
	"sync/atomic"
	"time"

	"github.com/unkeyed/unkey/go/deploy/metald/internal/backend/firecracker/metrics/fifo"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/vmmprocess"
)

const (
	// flushEvery is how often Firecracker is made to write its metrics while the guest runs. By itself it does so once
	// a minute, and what it had not written is lost with it.
	flushEvery = 100 * time.Millisecond
	// flushTimeout is when a flush is given up. Firecracker carries it out nevertheless, later.
	flushTimeout = 2 * time.Second

	// stillFor is how long the vCPUs of a guest whose kernel said that it is off must have stood still to be believed,
	// and stillCPU how much CPU time Firecracker itself may have taken meanwhile.
	stillFor = 500 * time.Millisecond
	stillCPU = 100 * time.Millisecond
)

// meter keeps the counters of a machine.
type meter struct {
	pipe      *os.File // nil until it is opened
	collector *fifo.Collector
	log       func(msg string, args ...any)

	running atomic.Bool
	flushed atomic.Bool   // a last flush was answered just before the VMM was killed
	failed  error         // of the collector, the last time
	pace    chan struct{} // of capacity 1: running has changed
	turn    chan struct{} // of capacity 1: who has a token in it may flush
	offAt   time.Time     // since when the guest's kernel is known to say that it is off; zero if it does not
	offCPU  time.Duration // the CPU time then
}

// run says whether the guest runs.
func (t *meter) run(yes bool) {
	t.running.Store(yes)
	select {
	case t.pace <- struct{}{}:
	default:
	}
}

// keepTime has the metrics written every flushEvery while the guest runs, and once more when it stops. It returns
// true when Firecracker has ended, false when the machine was released.
func (m *machine) keepTime() (ended bool) {
	ticker := time.NewTicker(flushEvery)
	defer ticker.Stop()
	ticks := ticker.C
	if !m.meter.running.Load() {
		ticker.Stop()
	}
	for {
		select {
		case <-m.process.Exited():
			return true
		case <-m.released:
			return false
		case <-m.meter.pace:
			ticker.Stop()
			if m.meter.running.Load() {
				ticker.Reset(flushEvery) // it has just written a line by itself
			} else {
				m.flush()
			}
		case <-ticks: // one that is late replaces the ones that were missed
			m.flush()
			m.endIfOff()
		}
	}
}

// flush has the metrics written, and reads them.
func (m *machine) flush() {
	select {
	case m.meter.turn <- struct{}{}:
		defer func() { <-m.meter.turn }()
	default:
		return // the last one was made
	}
	ctx, cancel := context.WithTimeout(m.life, flushTimeout)
	defer cancel()
	err := m.api.flushMetrics(ctx)
	var refused *fault
	if errors.As(err, &refused) {
		m.meter.take(m.meter.collector.Missed()) // the pipe was full
		return
	}
	m.meter.take(m.meter.collector.Collect())
}

// take notes an error of the collector, which loses nothing and goes on next time.
func (t *meter) take(err error) {
	if err != nil && t.failed == nil {
		t.log("the metrics of a VM cannot be read", "error", err)
	}
	t.failed = err
}

// last has the metrics of a VMM that is about to be killed written, if that is soon done. They are read at its end. A
// guest that stands still may have stopped a moment ago. No other flush begins afterwards, which the end would tear,
// until again is called.
func (t *meter) last(ctx context.Context, api *client) (again func()) {
	ctx, cancel := context.WithTimeout(ctx, lastFlush)
	defer cancel()
	select {
	case t.turn <- struct{}{}:
	case <-ctx.Done():
		return func() {}
	}
	// A guest that stands still does nothing between what is written now and its end.
	t.flushed.Store(api.pause(ctx) == nil && api.flushMetrics(ctx) == nil)
	return func() { <-t.turn }
}

// end reads the rest of what a VMM wrote that has ended.
func (t *meter) end(orderly bool) {
	t.take(t.collector.End(orderly || t.flushed.Load()))
	t.close()
}

// close lets go of the FIFO; what is written to it meanwhile waits.
func (t *meter) close() {
	if t.collector != nil {
		t.take(t.collector.Close())
	}
	if t.pipe != nil {
		t.pipe.Close()
	}
}

// endIfOff ends a Firecracker whose guest has powered off: on x86 it has no way to notice (FAQ.md), and would go on for
// ever, and be metered. Two things have to be seen: the guest's kernel has said so, and its vCPUs stand still.
func (m *machine) endIfOff() {
	t := &m.meter
	if !m.watch.PoweredOff() {
		t.offAt = time.Time{}
		return
	}
	cpu, err := vmmprocess.CPUTime(m.handle.Process.PID)
	if err != nil {
		return
	}
	if now := time.Now(); t.offAt.IsZero() || cpu-t.offCPU > stillCPU {
		t.offAt, t.offCPU = now, cpu
	} else if now.Sub(t.offAt) >= stillFor {
		m.mu.Lock()
		m.off = true
		m.mu.Unlock()
		ctx, cancel := context.WithTimeout(context.Background(), killTimeout)
		defer cancel()
		flushAgain := t.last(ctx, m.api)
		if m.process.Kill(ctx) != nil {
			flushAgain() // it is tried again at the next tick
		}
	}
}
