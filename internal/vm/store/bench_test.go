package store_test

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/unkeyed/unkey/go/deploy/metald/internal/backend/types"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/vm/store"
)

// BenchmarkPut compares a Put with its floor: a pwrite and fdatasync of the same bytes in place, which is the
// least that makes them durable. Both are measured in turns within one run; "x-floor" is the time of a Put over
// that of the floor. With 16 writers a Put's share of a commit is what counts.
func BenchmarkPut(b *testing.B) {
	for _, writers := range []int{1, 16} {
		b.Run(fmt.Sprintf("writers=%d", writers), func(b *testing.B) {
			dir := b.TempDir()
			s := openBolt(b, filepath.Join(dir, "vms.db"))
			floor := newFloor(b, filepath.Join(dir, "floor"))
			var puts, floors time.Duration
			b.ResetTimer()
			for done := 0; done < b.N; {
				n := min(b.N-done, 16*writers)
				puts += putMany(b, s, writers, n)
				b.StopTimer()
				floors += floor.write(b, n)
				b.StartTimer()
				done += n
			}
			b.ReportMetric(float64(puts)/float64(floors), "x-floor")
			b.ReportMetric(float64(floors.Nanoseconds())/float64(b.N), "floor-ns/op")
		})
	}
}

func putMany(b *testing.B, s store.Store, writers, n int) time.Duration {
	start := time.Now()
	var next atomic.Int64
	var all sync.WaitGroup
	for range writers {
		all.Go(func() {
			for i := next.Add(1); i <= int64(n); i = next.Add(1) {
				r := fullRecord()
				r.ID = types.VMID(fmt.Sprintf("vm-%d", i))
				if err := s.Put(r); err != nil {
					b.Error(err)
				}
			}
		})
	}
	all.Wait()
	return time.Since(start)
}

type floorFile struct {
	f     *os.File
	value []byte
}

func newFloor(b *testing.B, path string) floorFile {
	value, err := json.Marshal(fullRecord())
	if err != nil {
		b.Fatal(err)
	}
	f, err := os.Create(path)
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { f.Close() })
	if _, err := f.Write(make([]byte, 1<<20)); err != nil {
		b.Fatal(err)
	}
	if err := f.Sync(); err != nil {
		b.Fatal(err)
	}
	return floorFile{f, value}
}

func (f floorFile) write(b *testing.B, n int) time.Duration {
	start := time.Now()
	for i := range n {
		if _, err := f.f.WriteAt(f.value, int64(i%256)*4096); err != nil {
			b.Fatal(err)
		}
		if err := unix.Fdatasync(int(f.f.Fd())); err != nil {
			b.Fatal(err)
		}
	}
	return time.Since(start)
}
