package conformance

import (
	"errors"
	"fmt"
	"testing"

	"github.com/unkeyed/unkey/go/deploy/metald/internal/vm/lifecycle"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/vm/store"
)

func storeSentences() []sentence {
	return []sentence{
		{"a record that cannot be saved, at whatever step, leaves a true state", nil, unsavedAtEachStep},
		{"a VMM never lives without a record", nil, recordFirst},
	}
}

// steps is a life in which every verb has its place.
func (s *site) steps() []func() error {
	return []func() error{
		func() error { _, err := s.Create(s.ctx(), "a", s.spec()); return err },
		func() error { _, err := s.Boot(s.ctx(), "a"); return err },
		func() error { _, err := s.Pause(s.ctx(), "a"); return err },
		func() error { _, err := s.Resume(s.ctx(), "a"); return err },
		func() error { _, err := s.Reboot(s.ctx(), "a", true, 0); return err },
		func() error { _, err := s.Shutdown(s.ctx(), "a", true, 0); return err },
		func() error { _, err := s.Boot(s.ctx(), "a"); return err },
		func() error { return s.Delete(s.ctx(), "a", true) },
	}
}

func unsavedAtEachStep(t *testing.T, s *site) {
	for failing, failed := 1, true; failed; failing++ {
		failed = false
		t.Run(fmt.Sprintf("save %d", failing), func(t *testing.T) {
			n := 0
			s.records.fail(func(store.Record) error {
				if n++; n == failing {
					failed = true
					return errors.New("the disk is full")
				}
				return nil
			})
			for _, step := range s.steps() {
				if err := step(); err != nil {
					t.Logf("save %d failed: %v", failing, err)
				}
			}
			s.records.fail(nil)
			was := s.all()
			s.restart()
			is := s.all()
			if len(was) != len(is) || len(was) == 1 && (was[0].State != is[0].State || was[0].PID != is[0].PID) {
				t.Fatalf("after a restart %+v is %+v", was, is)
			}
			if len(is) == 1 {
				if err := s.Delete(s.ctx(), "a", true); err != nil {
					t.Fatal(err)
				}
			}
			s.restart() // the record goes after the answer
			s.wantNothing()
		})
	}
}

// recordFirst looks at what there is when each record is saved.
func recordFirst(t *testing.T, s *site) {
	s.records.fail(func(rec store.Record) error {
		if rec.Phase == store.Creating && rec.Handle == nil && len(s.h.Leftovers(t, s.dir)) != 0 {
			return errors.New("there is a process before there is a record")
		}
		return nil
	})
	s.create("a", s.spec())
	s.wantState("a", lifecycle.Created)
	if rec, ok := s.record("a"); !ok || rec.Handle == nil || rec.Phase != store.Live {
		t.Errorf("the record of a VM that was created is %+v", rec)
	}
}
