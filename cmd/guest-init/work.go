package main

import (
	"context"
	"runtime"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/unkeyed/unkey/go/deploy/metald/internal/guest"
)

// runToTheEnd does what has an end, in order, and then ends the guest if it was asked to.
func runToTheEnd(ctx context.Context, opts guest.Options, end chan<- ending) {
	for _, path := range opts.Touch {
		touch(path)
	}
	if opts.Write > 0 {
		write(ctx, opts.Write, opts.WriteTo)
	}
	if opts.Burn > 0 {
		burn(ctx, opts.Burn, opts.Burners)
	}
	wait(ctx, opts.After)
	switch opts.Exit {
	case guest.ExitPowerOff:
		powerOff().ask(end)
	case guest.ExitReboot:
		restart().ask(end)
	case guest.ExitPanic:
		panics().ask(end)
	}
}

// runBackground does what has no end, until ctx ends.
func runBackground(ctx context.Context, opts guest.Options) {
	var work sync.WaitGroup
	if opts.Count {
		work.Go(func() { count(ctx) })
	}
	if opts.Flood {
		work.Go(func() { flood(ctx) })
	}
	if opts.Burn == guest.Forever {
		work.Go(func() { burn(ctx, 0, opts.Burners) })
	}
	if opts.Shell {
		work.Go(func() { serveShell(ctx) })
	}
	work.Wait()
}

func wait(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}

func count(ctx context.Context) {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for n := 1; ; n++ {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			say(guest.Second(n))
		}
	}
}

func flood(ctx context.Context) {
	filler := strings.Repeat(" all work and no play", 4)
	for n := 1; ctx.Err() == nil; n++ {
		say(guest.FloodLine(n, filler))
	}
}

// burn keeps that many threads busy for d, or until ctx ends where d is 0, and says how much CPU time that was by the
// guest's own clock.
func burn(ctx context.Context, d time.Duration, threads int) {
	if d > 0 {
		var stop context.CancelFunc
		ctx, stop = context.WithTimeout(ctx, d)
		defer stop()
	}
	var burners sync.WaitGroup
	var mu sync.Mutex
	var total time.Duration
	for range threads {
		burners.Go(func() {
			spent := burnThread(ctx)
			mu.Lock()
			defer mu.Unlock()
			total += spent
		})
	}
	burners.Wait()
	say(guest.Burned(total))
}

// burnThread spins on a thread of its own and returns the CPU time it took.
func burnThread(ctx context.Context) time.Duration {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	before := threadTime()
	for x := uint64(1); ctx.Err() == nil; {
		for range 1 << 16 {
			x = x*6364136223846793005 + 1442695040888963407
		}
		runtime.KeepAlive(x)
	}
	return threadTime() - before
}

func threadTime() time.Duration {
	var ts unix.Timespec
	if unix.ClockGettime(unix.CLOCK_THREAD_CPUTIME_ID, &ts) != nil {
		return 0
	}
	return time.Duration(ts.Nano())
}
