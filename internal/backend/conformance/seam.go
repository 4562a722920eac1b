package conformance

import (
	"bytes"
	"context"
	"errors"
	"path/filepath"
	"testing"
	"time"

	"github.com/unkeyed/unkey/go/deploy/metald/internal/backend/types"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/vm"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/vm/lifecycle"
)

func seamSentences() []sentence {
	return []sentence{
		{"Commit is called once, with the handle of a process", nil, commitOnce},
		{"Create whose Commit fails leaves nothing", nil, commitFails},
		{"Create with a context that has ended leaves nothing", nil, createEnded},
		{"a machine outlives the context of its Create", nil, outlivesContext},
		{"Destroy is repeatable", nil, destroyTwice},
		{"Reap ends a process, is repeatable, and Adopt then says gone", nil, reapTwice},
		{"Exited closes on a crash and Exit says how", nil, exitedCloses},
		{"Release lets the machine go on", nil, release},
		{"Check finds this host usable", []Ability{Usable}, check},
	}
}

// request is a CreateRequest of its own, past the manager. The disk is the template itself, and read-only.
func (s *site) request() types.CreateRequest {
	spec := s.spec()
	req := types.CreateRequest{
		ID: "direct", Incarnation: 1, Spec: spec, Kernel: s.h.Kernel,
		RunDir: filepath.Join(s.dir, "run", "direct.1"), Console: &bytes.Buffer{},
		Commit: func(types.Handle) error { return nil },
		UID:    s.h.UIDBase, GID: s.h.UIDBase,
	}
	for i := range spec.Disks {
		spec.Disks[i].ReadOnly = true
		req.Disks = append(req.Disks, spec.Disks[i].Path)
	}
	return req
}

func (s *site) machine(req types.CreateRequest) types.Machine {
	s.t.Helper()
	m, err := s.backend.Create(s.ctx(), req)
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() {
		if _, err := s.backend.Reap(context.Background(), m.Handle()); err != nil {
			s.t.Error(err)
		}
	})
	return m
}

func (s *site) exits(m types.Machine) types.Exit {
	s.t.Helper()
	select {
	case <-m.Exited():
	case <-time.After(patience):
		s.t.Fatal("Exited was not closed")
	}
	return m.Exit()
}

func commitOnce(t *testing.T, s *site) {
	var committed []types.Handle
	req := s.request()
	req.Commit = func(h types.Handle) error { committed = append(committed, h); return nil }
	m := s.machine(req)
	h := m.Handle()
	if len(committed) != 1 || committed[0].Process != h.Process {
		t.Fatalf("committed %+v, and the handle is %+v", committed, h)
	}
	if h.Backend != s.backend.Name() || h.VM != req.ID || h.Incarnation != req.Incarnation || h.RunDir != req.RunDir ||
		h.Process.PID == 0 || h.Process.StartTicks == 0 || h.Process.BootID == "" || h.VMM == "" {
		t.Errorf("the handle is %+v", h)
	}
	if state, err := m.State(s.ctx()); err != nil || state != lifecycle.Created {
		t.Errorf("a new machine is %s, %v", state, err)
	}
	if err := m.Destroy(s.ctx()); err != nil {
		t.Error(err)
	}
}

func commitFails(t *testing.T, s *site) {
	full := errors.New("the disk is full")
	req := s.request()
	req.Commit = func(types.Handle) error { return full }
	if _, err := s.backend.Create(s.ctx(), req); !errors.Is(err, full) {
		t.Errorf("Create: %v", err)
	}
	s.wantNothing()
}

func createEnded(t *testing.T, s *site) {
	ctx, cancel := context.WithCancel(s.ctx())
	cancel()
	if _, err := s.backend.Create(ctx, s.request()); err == nil {
		t.Error("Create went on without its caller")
	}
	s.wantNothing()
	ctx, cancel = context.WithCancel(s.ctx())
	req := s.request()
	req.Commit = func(types.Handle) error { cancel(); return nil }
	if _, err := s.backend.Create(ctx, req); err == nil {
		t.Error("Create went on without its caller after Commit")
	}
	s.wantNothing()
}

func outlivesContext(t *testing.T, s *site) {
	ctx, cancel := context.WithCancel(s.ctx())
	m, err := s.backend.Create(ctx, s.request())
	if err != nil {
		t.Fatal(err)
	}
	cancel()
	if state, err := m.State(s.ctx()); err != nil || state != lifecycle.Created {
		t.Errorf("the machine is %s, %v", state, err)
	}
	if err := m.Destroy(s.ctx()); err != nil {
		t.Error(err)
	}
}

func destroyTwice(t *testing.T, s *site) {
	m := s.machine(s.request())
	for range 2 {
		if err := m.Destroy(s.ctx()); err != nil {
			t.Error(err)
		}
		s.wantNothing()
	}
	if exit := s.exits(m); exit.Reason != types.ReasonForced {
		t.Errorf("it ended with %+v", exit)
	}
}

func reapTwice(t *testing.T, s *site) {
	m := s.machine(s.request())
	m.Release()
	for range 2 {
		if _, err := s.backend.Reap(s.ctx(), m.Handle()); err != nil {
			t.Error(err)
		}
		s.wantNothing()
	}
	_, err := s.backend.Adopt(s.ctx(), types.AdoptRequest{Handle: m.Handle(), Spec: s.request().Spec, Console: &bytes.Buffer{}})
	if !errors.Is(err, types.ErrGone) {
		t.Errorf("Adopt of a process that is no more: %v", err)
	}
}

func exitedCloses(t *testing.T, s *site) {
	m := s.machine(s.request())
	select {
	case <-m.Exited():
		t.Fatal("Exited is closed and the process lives")
	default:
	}
	s.killMachine(m)
	if exit := s.exits(m); exit.Reason != types.ReasonKilled {
		t.Errorf("it ended with %+v", exit)
	}
	if state, err := m.State(s.ctx()); err == nil && state != lifecycle.Shutdown {
		t.Errorf("a machine that has ended is %s", state)
	}
}

func release(t *testing.T, s *site) {
	m := s.machine(s.request())
	m.Release()
	m.Release()
	again, err := s.backend.Adopt(s.ctx(), types.AdoptRequest{Handle: m.Handle(), Spec: s.request().Spec, Console: &bytes.Buffer{}})
	if err != nil {
		t.Fatal(err)
	}
	if state, err := again.State(s.ctx()); err != nil || state != lifecycle.Created {
		t.Errorf("the machine is %s, %v", state, err)
	}
	if err := again.Destroy(s.ctx()); err != nil {
		t.Error(err)
	}
}

func check(t *testing.T, s *site) {
	if err := s.backend.Check(s.ctx()); err != nil {
		t.Error(err)
	}
}

// killMachine ends a machine that no manager knows as kill -9 does.
func (s *site) killMachine(m types.Machine) {
	h := m.Handle()
	s.h.KillVMM(s.t, vm.Info{ID: h.VM, PID: h.Process.PID})
}
