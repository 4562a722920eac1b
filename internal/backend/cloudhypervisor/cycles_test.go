package cloudhypervisor

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sync/errgroup"

	"github.com/unkeyed/unkey/go/deploy/metald/internal/backend/backendtest"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/backend/types"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/host/disk"
	manager "github.com/unkeyed/unkey/go/deploy/metald/internal/vm"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/vm/lifecycle"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/vm/store"
)

// TestCyclesLeakNothing makes, boots and deletes caged VMs, 16 at a time, while somebody lists them and looks at their
// processes: 500, or 100 with -short. TestMain looks for goroutines.
func TestCyclesLeakNothing(t *testing.T) {
	const workers = 16
	cycles := 500
	if testing.Short() {
		cycles = 100
	}
	r := onStub(t, true)
	records, err := store.OpenBolt(filepath.Join(r.dir, "vms.db"))
	must(t, err)
	defer records.Close()
	m, stop := r.manage(records, r.backend, 2*workers)
	files, mounts := openFiles(t), mountPoints(t)

	next := make(chan int)
	var work sync.WaitGroup
	for range workers {
		work.Go(func() {
			for i := range next {
				cycle(t, m, types.VMID(fmt.Sprintf("vm-%d", i)), r.spec())
			}
		})
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for i := range cycles {
			next <- i
		}
		close(next)
		work.Wait()
	}()
	r.watch(m, done)

	must(t, stop())
	if after := openFiles(t); after > files {
		t.Errorf("%d files were open before, %d are after", files, after)
	}
	if after := mountPoints(t); after > mounts {
		t.Errorf("%d file systems were mounted before, %d are after", mounts, after)
	}
	r.wantNothing(records)
}

// manage starts a manager of the rig's VMs. stop ends it, and leaves its VMs as they are.
func (r *rig) manage(records store.Store, b types.Backend, maxVMs int) (m *manager.Manager, stop func() error) {
	r.t.Helper()
	m = manager.New(manager.Config{
		Backend: b, Store: records, StateDir: r.dir, Roots: disk.Roots{Assets: filepath.Dir(r.kernel), Volumes: r.volumes},
		MaxVMs: maxVMs, UIDBase: someUID, ConsoleBytes: 1 << 20, Log: slog.New(slog.NewTextHandler(backendtest.Log{TB: r.t}, &slog.HandlerOptions{Level: slog.LevelError})),
	})
	must(r.t, m.Restore(r.t.Context()))
	ctx, cancel := context.WithCancel(context.Background())
	var run errgroup.Group
	run.Go(func() error { return m.Run(ctx) })
	return m, func() error { cancel(); return run.Wait() }
}

// wantNothing looks for anything that VMs could have left.
func (r *rig) wantNothing(records store.Store) {
	r.t.Helper()
	for _, left := range append(children(), r.leftovers()...) {
		r.t.Errorf("left: %s", left)
	}
	for _, name := range []string{"vms", "run"} {
		if entries, err := os.ReadDir(filepath.Join(r.dir, name)); err != nil && !os.IsNotExist(err) || len(entries) > 0 {
			r.t.Errorf("%s: left %v, %v", name, entries, err)
		}
	}
	if all, err := records.All(); err != nil || len(all) > 0 {
		r.t.Errorf("records left: %v, %v", all, err)
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

// watch lists the VMs until done: each state that is seen follows from the one seen before, and no two processes that
// live at once have one user, or one network.
func (r *rig) watch(m *manager.Manager, done chan struct{}) {
	seen := map[types.VMID]lifecycle.State{}
	for looked := 0; ; {
		users, networks := map[string]int{}, map[string]int{}
		for _, info := range m.List(manager.ListQuery{Limit: 100}).VMs {
			if last, ok := seen[info.ID]; ok && info.State < last {
				r.t.Errorf("%s was %s and is %s", info.ID, last, info.State)
			}
			seen[info.ID] = info.State
			looked += r.alone(users, statusOf(info.PID, "Uid"), info.PID)
			r.alone(networks, link(info.PID, "ns/net"), info.PID)
		}
		select {
		case <-done:
			if looked == 0 {
				r.t.Error("no VMM was ever looked at")
			}
			return
		default:
		}
	}
}

// alone checks that no other living process has what; it returns how many it looked at.
func (r *rig) alone(all map[string]int, what string, pid int) int {
	other, taken := all[what]
	all[what] = pid
	// What is seen of one that has ended since says nothing.
	if what == "" || !lives(pid) {
		return 0
	}
	if taken && other != pid && lives(other) {
		r.t.Errorf("processes %d and %d both have %s", other, pid, what)
	}
	return 1
}

// lives tells whether a process with this pid exists and is no zombie.
func lives(pid int) bool {
	state := pidState(pid)
	return state != "" && state != "Z" && state != "X"
}

// statusOf is a field of /proc/<pid>/status, "" for none.
func statusOf(pid int, field string) string {
	text, _ := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "status"))
	for line := range strings.Lines(string(text)) {
		if value, ok := strings.CutPrefix(line, field+":"); ok {
			return strings.Join(strings.Fields(value), " ")
		}
	}
	return ""
}

// link is what a link of a process in /proc says.
func link(pid int, name string) string {
	text, _ := os.Readlink(filepath.Join("/proc", strconv.Itoa(pid), name))
	return text
}

func openFiles(t testing.TB) int {
	entries, err := os.ReadDir("/proc/self/fd")
	must(t, err)
	return len(entries)
}

func mountPoints(t testing.TB) int {
	text, err := os.ReadFile("/proc/self/mountinfo")
	must(t, err)
	return strings.Count(string(text), "\n")
}
