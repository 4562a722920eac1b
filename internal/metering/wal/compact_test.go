package wal

import (
	"context"
	"encoding/binary"
	"errors"
	"iter"
	"testing"
	"time"
)

// quotaed is a log under a quota, with its Run and its Compact.
func quotaed(t *testing.T, opt Options) (l *Log, stop func()) {
	t.Helper()
	l, end := running(t, newDisk(), opt)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- l.Compact(ctx) }()
	return l, func() {
		cancel()
		if err := errors.Join(<-done, end()); err != nil {
			t.Error(err)
		}
	}
}

// TestQuota: more than the quota allows is appended; the log stays below it, and the totals are right.
func TestQuota(t *testing.T) {
	opt := small
	opt.Thin, opt.QuotaBytes, opt.Retry = sums, 400<<10, time.Millisecond
	l, stop := quotaed(t, opt)
	var want, got uint64
	for value := uint64(1); l.Status().Next < 1200; value++ {
		seq, err := l.Append(Record{Keyframe: l.NeedsKeyframe(), Body: valued(value)})
		if err := errors.Join(err, l.Wait(t.Context(), seq)); err != nil {
			t.Fatal(err)
		}
		want += value
	}
	eventually(t, "the log is below its quota", func() bool { s := l.Status(); return !s.OverQuota && s.ThinErr == nil })
	last := l.Status().Durable
	r := l.NewReader(0)
	defer r.Close()
	coarsest, next := 0, uint64(1)
	for next <= last {
		e, err := r.Next(t.Context())
		if err != nil || e.Lost != nil || e.First != next {
			t.Fatalf("%+v %v, after %d", e, err, next-1)
		}
		got, next, coarsest = got+binary.LittleEndian.Uint64(e.Body[valueAt:]), e.Seq+1, max(coarsest, e.Level)
	}
	stop()
	if got != want || coarsest < 2 {
		t.Errorf("%d in all, and not %d; level %d", got, want, coarsest)
	}
}

// TestOverQuota: what can't be made coarser is told, and nothing is thrown away.
func TestOverQuota(t *testing.T) {
	opt := tiny
	opt.QuotaBytes, opt.Retry = minSegment, time.Millisecond
	opt.Thin = func(int, iter.Seq[Entry], func(Record) error) error { return errors.New("these are too dear") }
	l, stop := quotaed(t, opt)
	defer stop()
	for l.Status().Next < 100 {
		seq, err := l.Append(Record{Keyframe: l.NeedsKeyframe(), Body: valued(1)})
		if err := errors.Join(err, l.Wait(t.Context(), seq)); err != nil {
			t.Fatal(err)
		}
	}
	eventually(t, "it says so", func() bool { s := l.Status(); return s.OverQuota && s.ThinErr != nil })
	before := l.Status()
	if err := l.Ack(before.Durable); err != nil {
		t.Fatal(err)
	}
	if s := l.Status(); s.OverQuota || s.Segments != 1 || s.Bytes >= before.Bytes {
		t.Errorf("after all was acknowledged: %+v", s)
	}
}

// TestReaderInCompaction: who is in a segment reads it to its end, whatever comes in its place.
func TestReaderInCompaction(t *testing.T) {
	f, _, _ := filed(t, 200)
	d := f.disk()
	opt := tiny
	opt.Thin = oneOfAll
	l, err := OpenDir(d, opt)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	r := l.NewReader(0)
	defer r.Close()
	for seq := uint64(1); seq <= 5; seq++ {
		if e, err := r.Next(t.Context()); err != nil || e.Seq != seq {
			t.Fatalf("%+v %v", e, err)
		}
	}
	first := l.segments[0]
	end := limit(l.segments, 0)
	d.names[first.name()].data[firstFrame+3000] ^= 1 // so that the reader has to look at the whole file
	for l.compactOne() {
	}
	for seq := uint64(6); seq <= end; seq++ {
		if e, err := r.Next(t.Context()); err != nil || e.Seq != seq || string(e.Body) != string(body(seq)) {
			t.Fatalf("%d: %+v %v", seq, e, err)
		}
	}
	if e, err := r.Next(t.Context()); err != nil || e.Level != MaxLevel || e.First != end+1 || !e.Follows {
		t.Errorf("%+v %v", e, err)
	}
}

// TestCompactionAndAck: a segment that is acknowledged while it is made coarser does not come back.
func TestCompactionAndAck(t *testing.T) {
	f, _, _ := filed(t, 200)
	d := f.disk()
	opt := tiny
	var l *Log
	opt.Thin = func(level int, records iter.Seq[Entry], emit func(Record) error) error {
		if err := l.Ack(limit(l.segments, 0)); err != nil {
			t.Error(err)
		}
		return oneOfAll(level, records, emit)
	}
	l, err := OpenDir(d, opt)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	name := l.segments[0].name()
	l.compactOne()
	if d.names[name] != nil {
		t.Error(name, "is back")
	}
	if r, _ := d.files().read(t); !r.OK() {
		t.Errorf("%+v", r)
	}
}
