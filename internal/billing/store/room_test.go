package store

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/unkeyed/unkey/go/deploy/metald/internal/metering/usage"
)

// TestADiskWithoutRoom fills the disk at random offsets while batches come. What was acknowledged is there, and once
// there is room again everything is taken.
func TestADiskWithoutRoom(t *testing.T) {
	dir, err := os.MkdirTemp("", "m")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	if err := unix.Mount("none", dir, "tmpfs", 0, "size=48m"); err != nil {
		t.Skipf("a disk of limited size needs a tmpfs: %v", err)
	}
	defer unix.Unmount(dir, unix.MNT_DETACH)
	ctx := context.Background()
	s, err := Open(ctx, dir)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { s.Close() }()
	filler := filepath.Join(dir, "filler")
	refused, reopened := 0, 0
	var list []*sender
	for round := range 40 {
		v := newSender(t, fmt.Sprintf("v%d", round), 4)
		list = append(list, v)
		fill(t, filler, rand.Int64N(64<<10))
		try := func(what string, f func() error) {
			for range 4 {
				if f() == nil {
					return
				}
				refused++
				os.Remove(filler)
			}
			if err := s.Close(); err != nil { // as who runs it would do
				t.Logf("close: %v", err)
			}
			reopened++
			if s, err = Open(ctx, dir); err == nil {
				err = f()
			}
			if err != nil {
				t.Fatalf("round %d: %s is not taken with room: %v", round, what, err)
			}
		}
		try("a start", func() error { return s.Begin(ctx, v.start) })
		for _, b := range v.batches {
			try("a batch", func() error {
				outcome, next, err := s.Apply(ctx, b)
				if err == nil && outcome != Applied && outcome != Duplicate {
					t.Fatalf("round %d: outcome %d, next %d", round, outcome, next)
				}
				return err
			})
		}
		os.Remove(filler)
	}
	for _, v := range list {
		windows, quarantined, err := s.Usage(ctx, Query{VM: v.start.Incarnation.VM})
		if err != nil || quarantined != 0 || len(windows) != 1 || windows[0].Amount.Of[usage.CPU] != v.totals.Of[usage.CPU] || windows[0].Amount.Of[usage.GapTicks].Lo != 0 {
			t.Errorf("%s: %+v, %v, want %+v", v.start.Incarnation.VM, windows, err, v.totals.Amount)
		}
	}
	if refused == 0 {
		t.Error("there was room all the time")
	}
	t.Logf("%d refused, %d times opened again", refused, reopened)
}

// fill leaves so much room on the disk.
func fill(t *testing.T, path string, room int64) {
	t.Helper()
	var fs unix.Statfs_t
	if err := unix.Statfs(filepath.Dir(path), &fs); err != nil {
		t.Fatal(err)
	}
	n := int64(fs.Bavail)*fs.Bsize - room
	if n <= 0 {
		return
	}
	f, err := os.Create(path)
	if err != nil {
		return // no room for a name
	}
	defer f.Close()
	_ = unix.Fallocate(int(f.Fd()), 0, 0, n)
}
