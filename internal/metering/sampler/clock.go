package sampler

import (
	"context"

	"golang.org/x/sys/unix"

	"github.com/unkeyed/unkey/go/deploy/metald/internal/metering/usage"
)

// Clock is what time it is, and what waits for it.
type Clock interface {
	// Now is the time by both clocks, of one moment.
	Now() usage.Time
	// Boottime is CLOCK_BOOTTIME in ns. It goes on while the host is suspended, and CLOCK_MONOTONIC does not.
	Boottime() int64
	// Wait waits until CLOCK_MONOTONIC is at ns; false if ctx ended. It is called for one tick at a time, so it may be
	// late to see that.
	Wait(ctx context.Context, ns int64) bool
}

// hostClock is the clock of the host.
type hostClock struct{}

// Both clocks are read one after the other: who is interrupted between the two would see a wall clock that was set.
const (
	together = 50_000 // ns
	attempts = 5
)

func (hostClock) Now() usage.Time {
	var best usage.Time
	least := int64(1 << 62)
	for range attempts {
		before, wall, after := read(unix.CLOCK_MONOTONIC), read(unix.CLOCK_REALTIME), read(unix.CLOCK_MONOTONIC)
		if took := after - before; took < least {
			best, least = usage.Time{Mono: before + took/2, Wall: wall}, took
		}
		if least <= together {
			break
		}
	}
	return best
}

func (hostClock) Boottime() int64 { return read(unix.CLOCK_BOOTTIME) }

// Wait sleeps in the kernel: a timer of Go's would be seen by another thread first, which has no priority. It hears of
// the end of ctx when it wakes.
func (hostClock) Wait(ctx context.Context, ns int64) bool {
	until := unix.NsecToTimespec(ns)
	for ctx.Err() == nil {
		if err := unix.ClockNanosleep(unix.CLOCK_MONOTONIC, unix.TIMER_ABSTIME, &until, nil); err != unix.EINTR {
			break
		}
	}
	return ctx.Err() == nil
}

// read cannot fail for the clocks that every Linux has.
func read(clock int32) int64 {
	var ts unix.Timespec
	_ = unix.ClockGettime(clock, &ts)
	return ts.Nano()
}
