package conformance

import (
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/unkeyed/unkey/go/deploy/metald/internal/backend/types"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/host/disk"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/vm"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/vm/store"
)

// patience is for what takes no time unless something is wrong; the machine may be busy with other things.
const patience = 30 * time.Second

// consoleBytes is how much console is kept per VM.
const consoleBytes = 64 << 10

// site is a host with a metald on it: a state directory, records, a backend and a manager.
type site struct {
	*vm.Manager
	t       *testing.T
	h       Harness
	dir     string
	volumes string
	records *records
	backend types.Backend
	seen    *witness
	stop    func() // repeatable
	cleanUp func() // repeatable
}

// newSite returns a site whose manager runs. When the test ends every VM is deleted, and nothing may be left.
func newSite(t *testing.T, h Harness) *site {
	t.Helper()
	dir, err := os.MkdirTemp("", "m") // a socket below t.TempDir() could have too long a path
	if err != nil {
		t.Fatal(err)
	}
	s := &site{t: t, h: h, dir: dir, volumes: filepath.Join(dir, "volumes"), records: &records{Mem: store.NewMem()}}
	if err := os.Mkdir(s.volumes, 0o711); err != nil {
		t.Fatal(err)
	}
	s.cleanUp = sync.OnceFunc(s.deleteAll)
	s.start()
	return s
}

// start starts a manager over what is there.
func (s *site) start() {
	s.t.Helper()
	s.backend = s.h.NewBackend(s.t)
	s.t.Cleanup(s.cleanUp) // before what the newest backend needs is stopped
	s.Manager = vm.New(vm.Config{
		Backend: s.backend, Store: s.records, StateDir: s.dir,
		Roots:  disk.Roots{Assets: s.h.AssetsDir, Volumes: s.volumes},
		MaxVMs: 1000, UIDBase: s.h.UIDBase, ConsoleBytes: consoleBytes, Log: slog.New(slog.NewTextHandler(lines{s.t}, nil)),
	})
	if err := s.Restore(s.t.Context()); err != nil {
		s.t.Fatalf("restore: %v", err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	s.stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			s.t.Errorf("the manager stopped with: %v", err)
		}
	})
}

// restart stops the manager, and starts another over the same machines.
func (s *site) restart() {
	s.t.Helper()
	s.stop()
	s.start()
}

// deleteAll ends the test: what it leaves is a fault.
func (s *site) deleteAll() {
	s.records.fail(nil)
	for _, info := range s.all() {
		if err := s.Delete(context.Background(), info.ID, true); err != nil {
			s.t.Errorf("delete %s: %v", info.ID, err)
		}
	}
	s.stop()
	s.wantNothing()
	if err := os.RemoveAll(s.dir); err != nil {
		s.t.Error(err)
	}
}

// wantNothing fails the test for everything that is left of any VM.
func (s *site) wantNothing() {
	s.t.Helper()
	for _, what := range s.leftovers() {
		s.t.Errorf("left behind: %s", what)
	}
}

func (s *site) leftovers() []string {
	s.t.Helper()
	left := s.h.Leftovers(s.t, s.dir)
	for _, sub := range []string{"vms", "run"} {
		entries, err := os.ReadDir(filepath.Join(s.dir, sub))
		if err != nil {
			s.t.Error(err)
		}
		for _, e := range entries {
			left = append(left, filepath.Join(sub, e.Name()))
		}
	}
	all, err := s.records.All()
	if err != nil {
		s.t.Error(err)
	}
	for _, rec := range all {
		left = append(left, "the record of "+string(rec.ID))
	}
	slices.Sort(left)
	return left
}

func (s *site) all() []vm.Info {
	return s.List(vm.ListQuery{Limit: 10_000}).VMs
}

// records is a store in memory that fails on demand.
type records struct {
	*store.Mem
	mu    sync.Mutex
	onPut func(store.Record) error
}

// fail has every Put call onPut first; its error is the Put's. nil ends that.
func (r *records) fail(onPut func(store.Record) error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.onPut = onPut
}

func (r *records) Put(rec store.Record) error {
	r.mu.Lock()
	onPut := r.onPut
	r.mu.Unlock()
	if onPut != nil {
		if err := onPut(rec); err != nil {
			return err
		}
	}
	return r.Mem.Put(rec)
}

// record returns what is saved of a VM.
func (s *site) record(id types.VMID) (store.Record, bool) {
	s.t.Helper()
	all, err := s.records.All()
	if err != nil {
		s.t.Fatal(err)
	}
	i := slices.IndexFunc(all, func(rec store.Record) bool { return rec.ID == id })
	if i < 0 {
		return store.Record{}, false
	}
	return all[i], true
}

// lines writes a log to the test's.
type lines struct{ t *testing.T }

func (l lines) Write(p []byte) (int, error) {
	l.t.Log(strings.TrimSpace(string(p)))
	return len(p), nil
}
