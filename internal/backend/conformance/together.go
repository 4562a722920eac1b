package conformance

import (
	"sync"
	"testing"
	"time"

	"github.com/unkeyed/unkey/go/deploy/metald/internal/backend/types"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/vm/lifecycle"
)

func togetherSentences() []sentence {
	return []sentence{
		{"a paused VM is deleted by force, and not without", nil, deletePaused},
		{"verbs that are asked at once are done one after the other", nil, verbsAtOnce},
		{"a boot and a deletion at once leave nothing", nil, bootAndDelete},
	}
}

func deletePaused(t *testing.T, s *site) {
	s.running("a")
	if _, err := s.Pause(s.ctx(), "a"); err != nil {
		t.Fatal(err)
	}
	s.wantKind(s.Delete(s.ctx(), "a", false), types.KindPrecondition, "")
	s.wantState("a", lifecycle.Paused)
	if err := s.Delete(s.ctx(), "a", true); err != nil {
		t.Fatal(err)
	}
	s.stop() // the record goes after the answer
	s.wantNothing()
}

func verbsAtOnce(t *testing.T, s *site) {
	before := s.running("a")
	var callers sync.WaitGroup
	for i := range 4 {
		verb := s.Pause
		if i%2 == 1 {
			verb = s.Resume
		}
		callers.Go(func() {
			for range s.many(2, 20) {
				if _, err := verb(s.ctx(), "a"); err != nil && types.KindOf(err) != types.KindPrecondition {
					t.Error(err)
				}
			}
		})
	}
	callers.Wait()
	said := s.get("a")
	s.restart() // the VMM is asked anew
	if now := s.get("a"); now.State != said.State || now.PID != before.PID || now.Health != "" {
		t.Errorf("%+v was said to be %+v", now, said)
	}
}

func bootAndDelete(t *testing.T, s *site) {
	for range s.many(2, 10) {
		s.create("a", s.spec())
		booted := async(func() error { _, err := s.Boot(s.ctx(), "a"); return err })
		if err := s.Delete(s.ctx(), "a", true); err != nil {
			t.Fatal(err)
		}
		switch err := s.wait(booted, "boot"); types.KindOf(err) {
		case types.KindNotFound, types.KindAborted, types.KindCanceled, types.KindUnavailable:
		default:
			if err != nil {
				t.Errorf("a boot that a deletion met: %v", err)
			}
		}
		s.disappears("a")
		s.restart()
		s.wantNothing()
	}
}

// disappears waits until a VM is not found any more.
func (s *site) disappears(id types.VMID) {
	s.t.Helper()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(patience); ; <-tick.C {
		if _, err := s.Get(id); types.KindOf(err) == types.KindNotFound && err != nil {
			return
		}
		if time.Now().After(deadline) {
			s.t.Fatalf("%s is still there", id)
		}
	}
}
