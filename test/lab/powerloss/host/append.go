package main

import (
	"context"
	"sync/atomic"
	"time"

	"github.com/unkeyed/unkey/go/deploy/metald/internal/metering/wal"
	"github.com/unkeyed/unkey/go/deploy/metald/test/lab/powerloss"
)

// appendForever writes a log and says which records it said to be durable.
func appendForever(ctx context.Context) error {
	log, err := wal.Open(powerloss.PlainLog, wal.Options{SegmentBytes: 256 << 10})
	if err != nil {
		return err
	}
	failed := make(chan error, 3)
	var durable atomic.Uint64
	var s syncer
	go func() { failed <- log.Run(ctx) }()
	go func() { failed <- s.run() }()
	go func() { failed <- write(ctx, log, &durable) }()
	tick := time.NewTicker(powerloss.WordEvery)
	for {
		select {
		case err := <-failed:
			return err
		case <-tick.C:
			w := powerloss.Word{Mono: mono(), Durable: durable.Load()}
			s.put(&w)
			say(w)
		}
	}
}

// write appends a record at each tick, some of them long.
func write(ctx context.Context, log *wal.Log, durable *atomic.Uint64) error {
	tick := time.NewTicker(powerloss.Tick)
	for first := true; ; first = false {
		next := log.Status().Next
		seq, err := log.Append(wal.Record{Type: 1, Keyframe: first || log.NeedsKeyframe(), Body: powerloss.PlainBody(next)})
		if err != nil {
			return err
		}
		if err := log.Wait(ctx, seq); err != nil {
			return err
		}
		durable.Store(seq)
		<-tick.C
	}
}
