package ledger

import (
	"context"
	"fmt"
	"testing"
	"time"

	"go.etcd.io/bbolt"

	"github.com/unkeyed/unkey/go/deploy/metald/internal/metering/wal"
)

// BenchmarkFollow is what the ledger does with a tick of 1,000 VMs, 10 of them a second, without saving.
func BenchmarkFollow(b *testing.B) {
	h, l := busy(b, 1000)
	defer h.close()
	defer mustClose(b, l)
	entries := h.ticks(b, 20)
	b.ReportAllocs()
	b.ResetTimer()
	for i := 0; b.Loop(); i++ {
		if i%len(entries) == 0 && i > 0 {
			b.StopTimer()
			entries = h.ticks(b, 20)
			b.StartTimer()
		}
		l.follow(entries[i%len(entries)])
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/1000, "ns/sample")
}

// BenchmarkSave is one save of 1,000 VMs, every 10 s.
func BenchmarkSave(b *testing.B) {
	h, l := busy(b, 1000)
	defer h.close()
	defer mustClose(b, l)
	for b.Loop() {
		b.StopTimer()
		h.tick(100 * ms)
		h.caught(l)
		b.StartTimer()
		if err := l.save(); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkSize is a day of 1,000 VMs: what the file takes for each VM and hour.
func BenchmarkSize(b *testing.B) {
	for b.Loop() {
		h, l := busy(b, 1000)
		for range 24 * 6 {
			h.tick(600 * second)
			h.caught(l)
			if err := l.save(); err != nil {
				b.Fatal(err)
			}
		}
		b.ReportMetric(float64(allocated(b, l, hoursBucket, ofLifeBucket))/24_000, "B/life-hour")
		b.ReportMetric(float64(allocated(b, l, marksBucket))/144_000, "B/life-mark")
		b.ReportMetric(float64(allocated(b, l, livesBucket, ofVMBucket, ofTenant))/1000, "B/life")
		mustClose(b, l)
		h.close()
	}
}

// allocated is how many bytes of the file buckets have.
func allocated(b *testing.B, l *Ledger, names ...[]byte) (n int) {
	err := l.db.View(func(tx *bbolt.Tx) error {
		for _, name := range names {
			s := tx.Bucket(name).Stats()
			n += s.LeafAlloc + s.BranchAlloc
		}
		return nil
	})
	if err != nil {
		b.Fatal(err)
	}
	return n
}

// BenchmarkMinute is one query for the seconds of a minute of one of 100 VMs, an hour into the log.
func BenchmarkMinute(b *testing.B) {
	h, l := busy(b, 100)
	defer h.close()
	defer mustClose(b, l)
	for i := range 36_000 {
		h.tick(100 * ms)
		if i%3000 == 0 {
			h.caught(l)
			if err := l.save(); err != nil {
				b.Fatal(err)
			}
		}
	}
	h.caught(l)
	q := Query{VM: "vm-50", From: noon.Add(30 * time.Minute), To: noon.Add(31 * time.Minute), Step: time.Second}
	b.ResetTimer()
	for b.Loop() {
		if a, err := l.Usage(context.Background(), q); err != nil || len(a.Windows) != 60 {
			b.Fatal(len(a.Windows), err)
		}
	}
}

// busy is a host with n VMs and its ledger.
func busy(b *testing.B, n int) (*host, *Ledger) {
	h := newHost(b, 11)
	h.segment = 16 << 20
	h.restart()
	for i := range n {
		h.begin(fmt.Sprintf("vm-%d", i), fmt.Sprintf("tenant-%d", i%50))
	}
	h.tick(100 * ms)
	h.flush()
	return h, h.ledger(nil)
}

// ticks lets some ticks pass, and returns them as the log has them.
func (h *host) ticks(b *testing.B, n int) []wal.Entry {
	r := h.log.NewReader(h.last)
	defer r.Close()
	from := h.last
	for range n {
		h.tick(100 * ms)
	}
	h.flush()
	var list []wal.Entry
	for at := from; at < h.last; {
		e, err := r.Next(context.Background())
		if err != nil {
			b.Fatal(err)
		}
		if at = max(at, e.Seq); e.Seq > from {
			e.Body = append([]byte(nil), e.Body...)
			list = append(list, e)
		}
	}
	return list
}
