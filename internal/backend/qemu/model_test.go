package qemu

import (
	"context"
	"flag"
	"fmt"
	"log/slog"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"
	"pgregory.net/rapid"

	"github.com/unkeyed/unkey/go/deploy/metald/internal/backend/types"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/host/disk"
	manager "github.com/unkeyed/unkey/go/deploy/metald/internal/vm"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/vm/lifecycle"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/vm/store"
)

// TestRandomLives has VMs with a process each live at random, over restarts of the manager and SIGKILLs of VMMs,
// and compares every state that is reported with a model. The manager's own package does the same, and more of it,
// without processes.
func TestRandomLives(t *testing.T) {
	checks := flag.Lookup("rapid.checks")
	before := checks.Value.String()
	must(t, checks.Value.Set("60")) // a life here is some dozen processes
	defer func() { must(t, checks.Value.Set(before)) }()
	rapid.Check(t, func(rt *rapid.T) {
		l := &randomLives{T: rt, r: onStub(t), records: store.NewMem(), model: map[types.VMID]lifecycle.State{}}
		l.start(t)
		defer l.finish(t)
		rt.Repeat(map[string]func(*rapid.T){
			"create":   l.create,
			"boot":     l.verb(lifecycle.Boot, (*manager.Manager).Boot),
			"pause":    l.verb(lifecycle.Pause, (*manager.Manager).Pause),
			"resume":   l.verb(lifecycle.Resume, (*manager.Manager).Resume),
			"shutdown": l.verb(lifecycle.AskShutdown, shutdown(false)),
			"end":      l.verb(lifecycle.ForceShutdown, shutdown(true)),
			"reboot":   l.verb(lifecycle.AskReboot, reboot(false)),
			"restart":  l.verb(lifecycle.ForceReboot, reboot(true)),
			"delete":   l.delete(lifecycle.Delete, false),
			"remove":   l.delete(lifecycle.ForceDelete, true),
			"kill":     l.kill,
			"metald":   func(*rapid.T) { l.stop(t); l.start(t) },
			"":         l.compare,
		})
	})
}

type verb func(*manager.Manager, context.Context, types.VMID) (manager.Info, error)

func shutdown(force bool) verb {
	return func(m *manager.Manager, ctx context.Context, id types.VMID) (manager.Info, error) {
		return m.Shutdown(ctx, id, force, patience)
	}
}

func reboot(force bool) verb {
	return func(m *manager.Manager, ctx context.Context, id types.VMID) (manager.Info, error) {
		return m.Reboot(ctx, id, force, patience)
	}
}

// randomLives is the VMs, the manager that has them now, and what they should be.
type randomLives struct {
	*rapid.T
	r       *rig
	records store.Store
	m       *manager.Manager
	stop    func(testing.TB)
	model   map[types.VMID]lifecycle.State // Absent and Gone are not in it
}

func (l *randomLives) start(t testing.TB) {
	l.m = manager.New(manager.Config{
		Backend: l.r.another(), Store: l.records, StateDir: l.r.dir, Roots: disk.Roots{Assets: filepath.Dir(l.r.kernel)},
		MaxVMs: 20, ConsoleBytes: 1 << 20, Log: slog.New(slog.DiscardHandler),
	})
	must(t, l.m.Restore(t.Context()))
	ctx, cancel := context.WithCancel(context.Background())
	var run errgroup.Group
	run.Go(func() error { return l.m.Run(ctx) })
	l.stop = func(t testing.TB) {
		cancel()
		must(t, run.Wait())
	}
}

// finish deletes everything and looks for what is left.
func (l *randomLives) finish(t testing.TB) {
	for id := range l.model {
		must(t, l.m.Delete(t.Context(), id, true))
	}
	l.stop(t)
	if left := children(); len(left) > 0 {
		t.Errorf("left: %v", left)
	}
}

func (l *randomLives) id(rt *rapid.T) types.VMID {
	return types.VMID(fmt.Sprintf("vm%d", rapid.IntRange(0, 2).Draw(rt, "vm")))
}

func (l *randomLives) create(rt *rapid.T) {
	id := l.id(rt)
	info, err := l.m.Create(context.Background(), id, l.r.spec())
	want := max(l.model[id], lifecycle.Created) // one that exists stays what it is
	if err != nil || info.State != want {
		rt.Fatalf("create %s: %s, %v; want %s", id, info.State, err, want)
	}
	l.model[id] = want
}

// verb asks for an event and expects what the table of states says of it.
func (l *randomLives) verb(event lifecycle.Event, do verb) func(*rapid.T) {
	return func(rt *rapid.T) {
		id := l.id(rt)
		info, err := do(l.m, context.Background(), id)
		want, legal := l.legal(rt, id, event, err)
		if !legal {
			return
		}
		if event == lifecycle.AskShutdown {
			want = lifecycle.Shutdown // the guest of these tests honours the button
		}
		if err != nil || info.State != want {
			rt.Fatalf("%s %s: %s, %v; want %s", event, id, info.State, err, want)
		}
		l.model[id] = want
	}
}

func (l *randomLives) delete(event lifecycle.Event, force bool) func(*rapid.T) {
	return func(rt *rapid.T) {
		id := l.id(rt)
		err := l.m.Delete(context.Background(), id, force)
		if _, legal := l.legal(rt, id, event, err); legal {
			if err != nil {
				rt.Fatalf("%s %s: %v", event, id, err)
			}
			delete(l.model, id)
		}
	}
}

// legal says where event leads; where it is not legal it checks that err says so.
func (l *randomLives) legal(rt *rapid.T, id types.VMID, event lifecycle.Event, err error) (lifecycle.State, bool) {
	state, exists := l.model[id]
	next, refused := lifecycle.Next(state, event)
	kind := types.KindPrecondition
	if !exists {
		kind = types.KindNotFound
	} else if refused == nil {
		return next, true
	}
	if err == nil || types.KindOf(err) != kind {
		rt.Fatalf("%s %s, which is %s: %v", event, id, state, err)
	}
	return state, false
}

// kill ends a VMM behind the manager's back.
func (l *randomLives) kill(rt *rapid.T) {
	id := l.id(rt)
	info, err := l.m.Get(id)
	if err != nil || info.PID == 0 {
		return
	}
	if err := syscall.Kill(info.PID, syscall.SIGKILL); err != nil {
		rt.Fatal(err)
	}
	deadline := time.Now().Add(patience)
	for info.State != lifecycle.Shutdown {
		if info, err = l.m.Get(id); err != nil || time.Now().After(deadline) {
			rt.Fatalf("%s was killed and is %s, %v", id, info.State, err)
		}
	}
	if info.Exit == nil || info.Exit.Reason != types.ReasonKilled {
		rt.Fatalf("%s was killed and ended by %+v", id, info.Exit)
	}
	l.model[id] = lifecycle.Shutdown
}

func (l *randomLives) compare(rt *rapid.T) {
	page := l.m.List(manager.ListQuery{Limit: 10})
	if len(page.VMs) != len(l.model) || page.Total != len(l.model) {
		rt.Fatalf("%d of %d VMs are listed, want %d", len(page.VMs), page.Total, len(l.model))
	}
	for _, info := range page.VMs {
		if info.State != l.model[info.ID] {
			rt.Fatalf("%s is listed as %s, want %s", info.ID, info.State, l.model[info.ID])
		}
		if alive := info.PID != 0 && lives(info.PID); alive == (info.State == lifecycle.Shutdown) {
			rt.Fatalf("%s is %s and its VMM %d lives: %t", info.ID, info.State, info.PID, alive)
		}
	}
}
