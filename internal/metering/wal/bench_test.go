package wal

import (
	"context"
	"fmt"
	"path/filepath"
	"slices"
	"testing"
	"time"
)

// A tick of 1,000 VMs under a mixed load has about 4,400 bytes.
const tickBytes = 4400

// bare is what cannot be left out: a write to a file that was written full of zeros before, and fdatasync.
type bare struct {
	testing.TB
	dir  *osDir
	file File
	off  int
	n    int
}

const bareBytes = 16 << 20

func (f *bare) write(b []byte) {
	if f.file == nil || f.off+len(b) > bareBytes {
		f.next()
	}
	if err := writeAll(f.file, b, int64(f.off)); err != nil {
		f.Fatal(err)
	}
	if err := f.file.Sync(); err != nil {
		f.Fatal(err)
	}
	f.off += len(b)
}

func (f *bare) next() {
	if f.file != nil {
		f.file.Close()
	}
	f.n, f.off = f.n+1, 0
	file, err := f.dir.Create(fmt.Sprintf("%d.bare", f.n))
	if err == nil {
		err = file.Allocate(bareBytes)
	}
	if err == nil {
		err = zero(file, 0, bareBytes)
	}
	if err == nil {
		err = file.Sync()
	}
	if err != nil {
		f.Fatal(err)
	}
	f.file = file
}

// BenchmarkTick makes one record of a tick durable, and then writes and syncs the same bytes without a log, in turns. The
// ratio is that of the medians; the log's time ends when Wait has told.
func BenchmarkTick(b *testing.B) {
	path := b.TempDir()
	l, err := Open(filepath.Join(path, "log"), Options{})
	if err != nil {
		b.Fatal(err)
	}
	ctx, cancel := context.WithCancel(b.Context())
	ran := make(chan error, 1)
	go func() { ran <- l.Run(ctx) }()
	dir, err := openDir(filepath.Join(path, "bare"), false)
	if err != nil {
		b.Fatal(err)
	}
	defer dir.Close()
	floor := &bare{TB: b, dir: dir}
	body := make([]byte, tickBytes)
	for i := range body {
		body[i] = byte(i * i >> 3)
	}
	frame := append(make([]byte, frameHeader), body...)
	floor.next()
	var logged, floored []time.Duration
	for i := 0; b.Loop(); i++ {
		start := time.Now()
		seq, err := l.Append(Record{Keyframe: i%600 == 0 || l.NeedsKeyframe(), Body: body})
		if err == nil {
			err = l.Wait(ctx, seq)
		}
		if err != nil {
			b.Fatal(err)
		}
		middle := time.Now()
		floor.write(frame)
		logged, floored = append(logged, middle.Sub(start)), append(floored, time.Since(middle))
	}
	cancel()
	if err := <-ran; err != nil {
		b.Fatal(err)
	}
	l.Close()
	b.ReportMetric(float64(quantile(logged, 2)), "log-ns")
	b.ReportMetric(float64(quantile(floored, 2)), "bare-ns")
	b.ReportMetric(float64(quantile(logged, 2))/float64(quantile(floored, 2)), "ratio")
	b.ReportMetric(float64(quantile(logged, 100)), "log-p99-ns")
	b.ReportMetric(float64(quantile(floored, 100)), "bare-p99-ns")
}

// quantile is the time that one in n exceeds.
func quantile(d []time.Duration, n int) time.Duration {
	slices.Sort(d)
	return d[len(d)-1-(len(d)-1)/n]
}

// BenchmarkAppend is what a sampler waits for: nothing but the copy.
func BenchmarkAppend(b *testing.B) {
	l, err := OpenDir(newDisk(), Options{})
	if err != nil {
		b.Fatal(err)
	}
	body := make([]byte, tickBytes)
	for range 400 { // until the buffer has grown
		l.Append(Record{Keyframe: true, Body: body})
	}
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		if i%300 == 0 {
			l.incoming, l.waiting = l.incoming[:0], 0
		}
		if _, err := l.Append(Record{Keyframe: true, Body: body}); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkRecovery opens a log whose last segment is full.
func BenchmarkRecovery(b *testing.B) {
	path := b.TempDir()
	l, err := Open(path, Options{})
	if err != nil {
		b.Fatal(err)
	}
	w := l.newWriter()
	body := make([]byte, tickBytes)
	for w.active == nil || w.active.off < l.opt.SegmentBytes*3/4-400<<10 { // then another one begins soon
		for range 50 {
			if _, err := l.Append(Record{Keyframe: l.NeedsKeyframe(), Body: body}); err != nil {
				b.Fatal(err)
			}
		}
		w.commit(w.retry)
	}
	last := l.durable
	if err := l.close(); err != nil { // as if the process was killed
		b.Fatal(err)
	}
	b.SetBytes(int64(w.active.off))
	for b.Loop() {
		l, err := Open(path, Options{})
		if err != nil {
			b.Fatal(err)
		}
		if l.start.Last != last {
			b.Fatalf("%+v", l.start)
		}
		l.Close()
	}
}
