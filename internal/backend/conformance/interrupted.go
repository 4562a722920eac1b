package conformance

import (
	"testing"

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

func stopInTheMiddle(t *testing.T, s *site) {
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
		old := s.Manager
		asked := async(tt.verb)
		s.stop()
		err := s.wait(asked, tt.what)
		before, beforeErr := old.Get("a")
		s.start()
		info, getErr := s.Get("a")
		switch {
		case getErr != nil && (tt.what == "create" && err != nil || tt.what == "delete"):
			continue
		case getErr != nil:
			t.Fatalf("%s: %v; after it the VM is gone", tt.what, err)
		case tt.what == "delete" && err == nil:
			t.Errorf("a VM that was deleted is back: %+v", info)
		case err == nil && (beforeErr != nil || info.State != before.State || info.PID != before.PID):
			t.Errorf("%s: was %+v, and is %+v", tt.what, before, info)
		}
		s.becomes("a", "settled", patience, settled)
		if err := s.Delete(s.ctx(), "a", true); err != nil {
			t.Errorf("delete after a %s that was interrupted: %v", tt.what, err)
		}
		s.restart() // the record goes after the answer
		s.wantNothing()
	}
}
