package record

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/unkeyed/unkey/go/deploy/metald/internal/metering/wal"
)

// BenchmarkOnDisk is what 1,000 VMs take up in a log: with frames, keyframes and parity, but without the zeros behind
// the last record. Of it are made coarser records of each level.
func BenchmarkOnDisk(b *testing.B) {
	for _, l := range loads {
		b.Run(l.name, func(b *testing.B) {
			for b.Loop() {
				benchOnDisk(b, l.load)
			}
		})
	}
}

const benchTicks = 1800

func benchOnDisk(b *testing.B, l load) {
	dir := b.TempDir()
	log, err := wal.Open(dir, wal.Options{})
	if err != nil {
		b.Fatal(err)
	}
	ctx, stop := context.WithTimeout(b.Context(), 5*time.Minute)
	ran := make(chan error, 1)
	go func() { ran <- log.Run(ctx) }()
	fill(ctx, b, log, l)
	stop()
	if err := errors.Join(<-ran, log.Close()); err != nil {
		b.Fatal(err)
	}
	samples := float64(vms * benchTicks)
	b.ReportMetric(float64(used(b, dir))/samples, "B/sample")
	list := segment(b, dir)
	for level, unit := range []string{1: "B/sample-at-1s", 2: "B/sample-at-1min", 3: "B/sample-at-segment"} {
		if level > 0 {
			var size int
			list, size = coarserSize(b, level, list)
			b.ReportMetric(float64(size)/samples, unit)
		}
	}
}

func fill(ctx context.Context, b *testing.B, log *wal.Log, l load) {
	var e Encoder
	var buf []byte
	at, h := e.populate(), newHost(l)
	for range benchTicks {
		at = late(h, at)
		if log.NeedsKeyframe() {
			buf = e.Keyframe(buf[:0], at)
			if _, err := log.Append(wal.Record{Type: TypeKeyframe, Keyframe: true, Body: buf}); err != nil {
				b.Fatal(err)
			}
		}
		buf = e.Tick(buf[:0], at, 0, h.next())
		seq, err := log.Append(wal.Record{Type: TypeTick, Body: buf})
		if err == nil {
			err = log.Wait(ctx, seq)
		}
		if err != nil {
			b.Fatal(err)
		}
	}
}

// used is the size of the segments in dir without the zeros at their ends.
func used(b *testing.B, dir string) (n int) {
	names, err := filepath.Glob(filepath.Join(dir, "*.wal"))
	if err != nil || names == nil {
		b.Fatal(names, err)
	}
	for _, name := range names {
		data, err := os.ReadFile(name)
		if err != nil {
			b.Fatal(err)
		}
		n += len(bytes.TrimRight(data, "\x00"))
	}
	return n
}

// segment is the log in dir, as if it was one segment.
func segment(b *testing.B, dir string) (list []Numbered) {
	err := wal.Walk(dir, func(e wal.Entry) error {
		if e.Lost != nil {
			return errors.New(e.Lost.String())
		}
		list = append(list, Numbered{First: e.First, Seq: e.Seq, Type: e.Type, Keyframe: e.Keyframe, Body: bytes.Clone(e.Body)})
		return nil
	})
	if err != nil {
		b.Fatal(err)
	}
	return list
}

func coarserSize(b *testing.B, level int, list []Numbered) (coarse []Numbered, size int) {
	c := NewCoarse(level, func(r Numbered) error {
		r.Body = bytes.Clone(r.Body)
		coarse = append(coarse, r)
		size += frame(len(r.Body))
		return nil
	})
	for _, r := range list {
		if err := c.Record(r); err != nil {
			b.Fatal(err)
		}
	}
	if err := c.Close(); err != nil {
		b.Fatal(err)
	}
	return coarse, size
}

var _ Mourner = &Printer{}
var _ Sink = &Printer{}
