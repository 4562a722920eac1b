package conformance

import (
	"testing"
	"time"

	"github.com/unkeyed/unkey/go/deploy/metald/internal/vm/lifecycle"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/vm/store"
)

func interruptedSentences() []sentence {
	return []sentence{
		{"a creation that metald died in is undone", nil, phaseOver(store.Creating)},
		{"a deletion that metald died in is finished", nil, phaseOver(store.Deleting)},
		{"a metald that stops in the middle of a verb finds a true state when it is back", nil, stopInTheMiddle},
	}
}

// phaseOver has a metald come back to the record of a VM as it is in a phase, with its VMM alive.
func phaseOver(phase store.Phase) func(*testing.T, *site) {
	return func(t *testing.T, s *site) {
		s.running("a")
		s.create("b", s.spec())
		s.stop()
		rec, ok := s.record("a")
		if !ok {
			t.Fatal("a VM that runs has no record")
		}
		rec.Phase = phase
		if err := s.records.Put(rec); err != nil {
			t.Fatal(err)
		}
		s.start()
		s.disappears("a")
		s.wantState("b", lifecycle.Created)
		if err := s.Delete(s.ctx(), "b", false); err != nil {
			t.Fatal(err)
		}
		s.stop()
		s.wantNothing()
	}
}

// headStarts are how far verbs may have come when metald stops: not begun, under way, done.
var headStarts = []time.Duration{0, time.Millisecond, 30 * time.Millisecond}

func stopInTheMiddle(t *testing.T, s *site) {
	for _, headStart := range headStarts {
		for _, tt := range []struct {
			what string
			from lifecycle.State
			verb func() error
		}{
			{"create", lifecycle.Absent, func() error { _, err := s.Create(s.ctx(), "a", s.spec()); return err }},
			{"boot", lifecycle.Created, func() error { _, err := s.Boot(s.ctx(), "a"); return err }},
			{"pause", lifecycle.Running, func() error { _, err := s.Pause(s.ctx(), "a"); return err }},
			{"reboot", lifecycle.Running, func() error { _, err := s.Reboot(s.ctx(), "a", true, 0); return err }},
			{"shutdown", lifecycle.Running, func() error { _, err := s.Shutdown(s.ctx(), "a", true, 0); return err }},
			{"delete", lifecycle.Running, func() error { return s.Delete(s.ctx(), "a", true) }},
		} {
			if tt.from != lifecycle.Absent {
				s.create("a", s.spec())
			}
			if tt.from == lifecycle.Running {
				s.boot("a")
			}
			s.stopDuring(tt.what, tt.verb, headStart)
		}
	}
}

// stopDuring restarts metald while a verb of VM a may be under way, checks what it finds, and deletes the VM.
func (s *site) stopDuring(what string, verb func() error, headStart time.Duration) {
	s.t.Helper()
	old := s.Manager
	asked := async(verb)
	<-time.After(headStart)
	s.stop()
	err := s.wait(asked, what)
	before, beforeErr := old.Get("a")
	s.start()
	info, getErr := s.Get("a")
	switch {
	case getErr != nil && (what == "create" && err != nil || what == "delete"):
		s.wantNothing()
		return
	case getErr != nil:
		s.t.Fatalf("%s: %v; after it the VM is gone", what, err)
	case what == "delete" && err == nil:
		s.t.Errorf("a VM that was deleted is back: %+v", info)
	case err == nil && (beforeErr != nil || info.State != before.State || info.PID != before.PID):
		s.t.Errorf("%s: was %+v, and is %+v", what, before, info)
	}
	s.becomes("a", "settled", patience, settled)
	if err := s.Delete(s.ctx(), "a", true); err != nil {
		s.t.Errorf("delete after a %s that was interrupted: %v", what, err)
	}
	s.restart() // the record goes after the answer
	s.wantNothing()
}
