package conformance

import (
	"context"
	"sync"
	"testing"
	"time"

	"github.com/unkeyed/unkey/go/deploy/metald/internal/vm/lifecycle"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/vm/store"
)

func isolationSentences() []sentence {
	return []sentence{
		{"a VM that is stuck holds up no other", nil, stuckVM},
		{"a VMM that does not answer holds up no other, and can be ended", []Ability{Mute}, muteVM},
		{"a caller who gives up is answered, and the operation goes on", nil, impatientCaller},
	}
}

// stall makes saving a record of VM a wait until release is called, or the test ends.
func (s *site) stall(is func(store.Record) bool) (stalled <-chan struct{}, release func()) {
	reached, freed := make(chan struct{}), make(chan struct{})
	once := make(chan struct{}, 1)
	once <- struct{}{}
	s.records.fail(func(rec store.Record) error {
		if rec.ID != "a" || !is(rec) {
			return nil
		}
		select {
		case <-once:
			close(reached)
		default:
		}
		<-freed
		return nil
	})
	release = sync.OnceFunc(func() { s.records.fail(nil); close(freed) })
	s.t.Cleanup(release)
	return reached, release
}

func stuckVM(t *testing.T, s *site) {
	stalled, release := s.stall(func(store.Record) bool { return true })
	created := async(func() error { _, err := s.Create(s.ctx(), "a", s.spec()); return err })
	<-stalled
	s.running("b")
	if _, err := s.Pause(s.ctx(), "b"); err != nil {
		t.Error(err)
	}
	if err := s.Delete(s.ctx(), "b", true); err != nil {
		t.Error(err)
	}
	if all := s.all(); len(all) != 0 {
		t.Errorf("a VM that is still being created is listed: %+v", all)
	}
	release()
	if err := s.wait(created, "create"); err != nil {
		t.Error(err)
	}
	s.wantState("a", lifecycle.Created)
}

func muteVM(t *testing.T, s *site) {
	info := s.running("a")
	s.running("b")
	s.h.MuteVMM(t, info)
	paused := async(func() error { _, err := s.Pause(s.ctx(), "a"); return err })
	if _, err := s.Pause(s.ctx(), "b"); err != nil {
		t.Error(err)
	}
	begun := time.Now()
	ended, err := s.Shutdown(s.ctx(), "a", true, 0)
	if err != nil || ended.State != lifecycle.Shutdown {
		t.Errorf("shut down to %+v, %v", ended, err)
	}
	if took := time.Since(begun); took > 10*time.Second {
		t.Errorf("a VMM that does not answer took %s to be ended", took)
	}
	if err := s.wait(paused, "pause"); err == nil {
		t.Error("a VMM that does not answer was paused")
	}
}

func impatientCaller(t *testing.T, s *site) {
	s.create("a", s.spec())
	stalled, release := s.stall(func(rec store.Record) bool { return rec.State == lifecycle.Shutdown })
	s.boot("a")
	ctx, cancel := context.WithCancel(s.ctx())
	asked := async(func() error { _, err := s.Shutdown(ctx, "a", true, 0); return err })
	<-stalled
	cancel()
	if err := s.wait(asked, "shutdown"); err == nil {
		t.Error("who gave up was told that it was done")
	}
	release()
	s.reaches("a", lifecycle.Shutdown, patience)
}
