package qemu

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"golang.org/x/sync/errgroup"

	"github.com/unkeyed/unkey/go/deploy/metald/internal/backend/types"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/host/disk"
	manager "github.com/unkeyed/unkey/go/deploy/metald/internal/vm"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/vm/lifecycle"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/vm/store"
)

// TestCyclesLeakNothing makes, boots and deletes 200 VMs with a VMM process each, 10 at a time, while somebody
// lists them. TestMain looks for goroutines.
func TestCyclesLeakNothing(t *testing.T) {
	r := onStub(t)
	records, err := store.OpenBolt(filepath.Join(r.dir, "vms.db"))
	must(t, err)
	defer records.Close()
	m := manager.New(manager.Config{
		Backend: r.backend, Store: records, StateDir: r.dir, Roots: disk.Roots{Assets: filepath.Dir(r.kernel)},
		MaxVMs: 20, ConsoleBytes: 1 << 20, Log: slog.New(slog.DiscardHandler),
	})
	must(t, m.Restore(t.Context()))
	ctx, stop := context.WithCancel(t.Context())
	var run errgroup.Group
	run.Go(func() error { return m.Run(ctx) })
	before := openFiles(t)

	const workers, cycles = 10, 20
	var work sync.WaitGroup
	for w := range workers {
		work.Go(func() {
			for i := range cycles {
				cycle(t, m, types.VMID(fmt.Sprintf("vm-%d-%d", w, i)), r.spec())
			}
		})
	}
	done := make(chan struct{})
	go func() { work.Wait(); close(done) }()
	watch(t, m, done)

	stop()
	must(t, run.Wait())
	if after := openFiles(t); after > before {
		t.Errorf("%d files were open before, %d are after", before, after)
	}
	if left := children(); len(left) > 0 {
		t.Errorf("left: %v", left)
	}
	for _, name := range []string{"vms", "run"} {
		if entries, err := os.ReadDir(filepath.Join(r.dir, name)); err != nil || len(entries) > 0 {
			t.Errorf("%s: left %v, %v", name, entries, err)
		}
	}
	if all, err := records.All(); err != nil || len(all) > 0 {
		t.Errorf("records left: %v, %v", all, err)
	}
}

func cycle(t *testing.T, m *manager.Manager, id types.VMID, spec types.Spec) {
	if created, err := m.Create(t.Context(), id, spec); err != nil || created.State != lifecycle.Created {
		t.Errorf("created %s: %s, %v", id, created.State, err)
		return
	}
	if booted, err := m.Boot(t.Context(), id); err != nil || booted.State != lifecycle.Running {
		t.Errorf("booted %s: %s, %v", id, booted.State, err)
	}
	if err := m.Delete(t.Context(), id, true); err != nil {
		t.Errorf("delete %s: %v", id, err)
	}
}

// watch lists the VMs until done: each state that is seen follows from the one seen before.
func watch(t *testing.T, m *manager.Manager, done chan struct{}) {
	seen := map[types.VMID]lifecycle.State{}
	for {
		for _, info := range m.List(manager.ListQuery{Limit: 100}).VMs {
			if last, ok := seen[info.ID]; ok && info.State < last {
				t.Errorf("%s was %s and is %s", info.ID, last, info.State)
			}
			if info.State < lifecycle.Created || info.State > lifecycle.Shutdown {
				t.Errorf("%s is %s", info.ID, info.State)
			}
			seen[info.ID] = info.State
		}
		select {
		case <-done:
			return
		default:
		}
	}
}
