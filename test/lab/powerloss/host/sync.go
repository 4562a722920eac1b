package main

import (
	"os"
	"path/filepath"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/unkeyed/unkey/go/deploy/metald/test/lab/powerloss"
)

// syncer writes and syncs a file of its own, on the disk that the log is on.
type syncer struct {
	took  atomic.Int64 // the last sync that ended, ns
	since atomic.Int64 // when the one under way began; 0: there is none
}

// syncEvery is between two syncs.
const syncEvery = 50 * time.Millisecond

func (s *syncer) run() error {
	f, err := os.Create(filepath.Join(powerloss.Disk, "synced"))
	if err != nil {
		return err
	}
	for block := make([]byte, 512); ; time.Sleep(syncEvery) {
		if _, err := f.WriteAt(block, 0); err != nil {
			return err
		}
		began := mono()
		s.since.Store(began)
		if err := unix.Fdatasync(int(f.Fd())); err != nil {
			return err
		}
		s.took.Store(mono() - began)
		s.since.Store(0)
	}
}

// put puts what is known into a word.
func (s *syncer) put(w *powerloss.Word) {
	w.Synced = s.took.Load()
	if since := s.since.Load(); since != 0 {
		w.Syncing = w.Mono - since
	}
}

// mono is CLOCK_MONOTONIC in ns.
func mono() int64 {
	var ts unix.Timespec
	_ = unix.ClockGettime(unix.CLOCK_MONOTONIC, &ts) // which Linux has
	return ts.Nano()
}
