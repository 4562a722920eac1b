package store

import (
	"context"
	"fmt"
	"testing"

	"github.com/unkeyed/unkey/go/deploy/metald/internal/metering/usage"
)

// BenchmarkIngest applies batches of 600 ticks, each on the disk before the next. BenchmarkBareInsert is its floor: the
// same ticks as rows of a table without an index, a transaction per 600.
func BenchmarkIngest(b *testing.B) {
	const batches = 10
	s := open(b, b.TempDir())
	var senders []*sender
	for i := range b.N/batches + 1 {
		v := newSender(b, fmt.Sprint("v", i), batches)
		v.begin(b, s)
		senders = append(senders, v)
	}
	b.ResetTimer()
	for i := range b.N {
		apply(b, s, senders[i/batches].batches[i%batches], Applied)
	}
	b.ReportMetric(float64(b.N)*600/b.Elapsed().Seconds(), "samples/s")
}

func BenchmarkBareInsert(b *testing.B) {
	s := open(b, b.TempDir())
	if _, err := s.write.Exec("CREATE TABLE bare(vm TEXT, seq INTEGER, mono INTEGER, wall INTEGER, state INTEGER, cpu INTEGER, dr INTEGER, dw INTEGER, rx INTEGER, tx INTEGER, resident INTEGER, allocated INTEGER)"); err != nil {
		b.Fatal(err)
	}
	b.ResetTimer()
	for range b.N {
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
	b.ReportMetric(float64(b.N)*600/b.Elapsed().Seconds(), "samples/s")
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
