package conformance

import (
	"os"
	"path/filepath"
	"runtime"
	"testing"
	"time"

	"github.com/unkeyed/unkey/go/deploy/metald/internal/backend/types"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/vm/lifecycle"
)

func cleanupSentences() []sentence {
	return []sentence{
		{"file descriptors and goroutines are given back with their VMs", nil, givenBack},
		{"a deletion takes nothing of another VM", nil, deleteBesideAnother},
		{"a VM that is shut down holds no process, and keeps its disks until it is deleted", nil, shutDownHoldsNothing},
	}
}

// openFiles counts the file descriptors of this process, which is metald's here.
func (s *site) openFiles() int {
	s.t.Helper()
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		s.t.Skipf("this host does not say which files are open: %v", err)
	}
	return len(entries)
}

func givenBack(t *testing.T, s *site) {
	s.comeAndGo("warm", 2) // what is opened once
	files, goroutines := s.openFiles(), runtime.NumGoroutine()
	s.comeAndGo("a", s.many(4, 20))
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(patience); ; <-tick.C {
		nowFiles, nowGoroutines := s.openFiles(), runtime.NumGoroutine()
		if nowFiles <= files && nowGoroutines <= goroutines {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%d open files became %d, %d goroutines %d", files, nowFiles, goroutines, nowGoroutines)
		}
	}
}

// names lists what there is in a directory of the site.
func (s *site) names(dir string) (names []string) {
	s.t.Helper()
	entries, err := os.ReadDir(filepath.Join(s.dir, dir))
	if err != nil {
		s.t.Fatal(err)
	}
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}

func deleteBesideAnother(t *testing.T, s *site) {
	// One id begins with the other, and so do their directories' names.
	s.running("a")
	other := s.running("a1")
	if err := s.Delete(s.ctx(), "a", true); err != nil {
		t.Fatal(err)
	}
	s.restart() // which sweeps
	if now := s.wantState("a1", lifecycle.Running); now.PID != other.PID {
		t.Errorf("%+v became %+v", other, now)
	}
	for _, dir := range []string{"vms", "run"} {
		if names := s.names(dir); len(names) != 1 {
			t.Errorf("%s has %v, and there is one VM", dir, names)
		}
	}
	if _, err := s.Pause(s.ctx(), "a1"); err != nil {
		t.Error(err)
	}
}

func shutDownHoldsNothing(t *testing.T, s *site) {
	s.running("a")
	if _, err := s.Shutdown(s.ctx(), "a", true, 0); err != nil {
		t.Fatal(err)
	}
	for _, what := range s.h.Leftovers(t, s.dir) {
		t.Errorf("a VM that is shut down has %s", what)
	}
	if names := s.names("run"); len(names) != 0 {
		t.Errorf("a VM that is shut down has run directories: %v", names)
	}
	if s.h.RootDisk != "" {
		if _, err := os.Stat(s.disk("a")); err != nil {
			t.Error(err)
		}
	}
	s.wantExit(s.get("a"), types.ReasonForced)
}
