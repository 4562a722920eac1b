package store

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/unkeyed/unkey/go/deploy/metald/internal/metering/usage"
)

// BenchmarkIngest applies batches of 600 ticks, each on the disk before the next, and in between inserts the same ticks as
// rows of a table without an index, in a transaction: the floor.
func BenchmarkIngest(b *testing.B) {
	var ingest, floor time.Duration
	for b.Loop() {
		ingest, floor = ingestBesideBare(b)
	}
	const samples = ingestVMs * ingestBatches * 600
	b.ReportMetric(samples/ingest.Seconds(), "samples/s")
	b.ReportMetric(samples/floor.Seconds(), "bare-samples/s")
	b.ReportMetric(floor.Seconds()/ingest.Seconds(), "ratio")
}

const ingestVMs, ingestBatches = 20, 10

func ingestBesideBare(b *testing.B) (ingest, floor time.Duration) {
	s, bare := open(b, b.TempDir()), open(b, b.TempDir())
	if _, err := bare.write.Exec("CREATE TABLE bare(vm TEXT, seq INTEGER, mono INTEGER, wall INTEGER, state INTEGER, cpu INTEGER, dr INTEGER, dw INTEGER, rx INTEGER, tx INTEGER, resident INTEGER, allocated INTEGER)"); err != nil {
		b.Fatal(err)
	}
	var senders []*sender
	for i := range ingestVMs {
		v := newSender(b, fmt.Sprint("v", i), ingestBatches)
		v.begin(b, s)
		senders = append(senders, v)
	}
	for i := range ingestBatches {
		for _, v := range senders {
			began := time.Now()
			apply(b, s, v.batches[i], Applied)
			middle := time.Now()
			insertBare(b, bare)
			ingest, floor = ingest+middle.Sub(began), floor+time.Since(middle)
		}
	}
	return ingest, floor
}

func insertBare(b *testing.B, s *Store) {
	tx, err := s.write.BeginTx(context.Background(), nil)
	if err != nil {
		b.Fatal(err)
	}
	insert, err := tx.Prepare("INSERT INTO bare VALUES(?,?,?,?,?,?,?,?,?,?,?,?)")
	if err != nil {
		b.Fatal(err)
	}
	for seq := range 600 {
		if _, err := insert.Exec("v", seq, seq, seq, 3, seq, seq, 0, 0, 0, 100, 1<<29); err != nil {
			b.Fatal(err)
		}
	}
	if err := tx.Commit(); err != nil {
		b.Fatal(err)
	}
}

// BenchmarkAnnounce is a heartbeat of a host with 1,000 VMs, each of which used something since the last.
func BenchmarkAnnounce(b *testing.B) {
	s := open(b, b.TempDir())
	v := newSender(b, "v", 1)
	list := map[usage.Incarnation]usage.Totals{}
	for i := range 1000 {
		start := v.start
		start.Incarnation.VM = fmt.Sprint("v", i)
		if err := s.Begin(context.Background(), start); err != nil {
			b.Fatal(err)
		}
		list[start.Incarnation] = usage.Totals{At: start.At}
	}
	for b.Loop() {
		for inc, totals := range list {
			totals.At.Mono += second
			totals.At.Wall += second
			totals.Of[usage.CPU] = totals.Of[usage.CPU].Plus(usage.Of64(second / 2))
			list[inc] = totals
		}
		if err := s.Announce(context.Background(), list, nil); err != nil {
			b.Fatal(err)
		}
	}
}
