package conformance

import (
	"testing"
	"time"

	"github.com/unkeyed/unkey/go/deploy/metald/internal/backend/types"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/vm/lifecycle"
)

func lifecycleSentences() []sentence {
	return []sentence{
		{"a VM is created, boots, is paused, resumed, shut down and deleted", nil, wholeLife},
		{"boot twice is refused", nil, bootTwice},
		{"a verb that is not legal is refused and changes nothing", nil, illegalVerbs},
		{"a VM boots again after each shutdown", nil, bootAgain},
		{"a forced reboot gives the next incarnation", nil, forcedReboot},
		{"a running VM is not deleted without force", nil, deleteRunning},
		{"deleting twice is not found", nil, deleteTwice},
		{"the id of a deleted VM can be used again", nil, reuseID},
		{"times are true", nil, trueTimes},
	}
}

func wholeLife(t *testing.T, s *site) {
	created := s.create("a", s.spec())
	if created.State != lifecycle.Created || created.Incarnation != 1 || created.PID == 0 || created.VMM == "" || created.VMMVersion == "" {
		t.Errorf("after create: %+v", created)
	}
	s.wantState("a", lifecycle.Created)
	if booted := s.boot("a"); booted.State != lifecycle.Running || booted.PID != created.PID || booted.BootedAt.IsZero() {
		t.Errorf("after boot: %+v", booted)
	}
	s.wantState("a", lifecycle.Running)
	if paused, err := s.Pause(s.ctx(), "a"); err != nil || paused.State != lifecycle.Paused {
		t.Errorf("after pause: %+v, %v", paused, err)
	}
	s.wantState("a", lifecycle.Paused)
	if resumed, err := s.Resume(s.ctx(), "a"); err != nil || resumed.State != lifecycle.Running {
		t.Errorf("after resume: %+v, %v", resumed, err)
	}
	s.wantState("a", lifecycle.Running)
	ended, err := s.Shutdown(s.ctx(), "a", true, 0)
	if err != nil || ended.State != lifecycle.Shutdown {
		t.Errorf("after shutdown: %+v, %v", ended, err)
	}
	s.wantExit(s.wantState("a", lifecycle.Shutdown), types.ReasonForced)
	if err := s.Delete(s.ctx(), "a", false); err != nil {
		t.Error(err)
	}
	_, err = s.Get("a")
	s.wantKind(err, types.KindNotFound, "")
}

func bootTwice(_ *testing.T, s *site) {
	s.running("a")
	_, err := s.Boot(s.ctx(), "a")
	s.wantKind(err, types.KindPrecondition, "")
	s.wantState("a", lifecycle.Running)
}

func illegalVerbs(t *testing.T, s *site) {
	pause := func() error { _, err := s.Pause(s.ctx(), "a"); return err }
	resume := func() error { _, err := s.Resume(s.ctx(), "a"); return err }
	ask := func() error { _, err := s.Shutdown(s.ctx(), "a", false, time.Second); return err }
	reboot := func() error { _, err := s.Reboot(s.ctx(), "a", true, 0); return err }
	askReboot := func() error { _, err := s.Reboot(s.ctx(), "a", false, time.Second); return err }
	refused := func(verbs ...func() error) {
		t.Helper()
		before := s.get("a")
		for i, verb := range verbs {
			if err := verb(); types.KindOf(err) != types.KindPrecondition {
				t.Errorf("verb %d of a VM that is %s: %v", i, before.State, err)
			}
			if after := s.get("a"); after.State != before.State || after.PID != before.PID || !after.ModifiedAt.Equal(before.ModifiedAt) {
				t.Errorf("verb %d changed %+v to %+v", i, before, after)
			}
		}
	}
	s.create("a", s.spec())
	refused(pause, resume, ask, reboot, askReboot)
	s.boot("a")
	refused(resume)
	if err := pause(); err != nil {
		t.Fatal(err)
	}
	refused(pause, ask, reboot, askReboot)
	if _, err := s.Shutdown(s.ctx(), "a", true, 0); err != nil {
		t.Fatal(err)
	}
	refused(pause, resume, reboot, askReboot)
}

func bootAgain(t *testing.T, s *site) {
	pids := map[int]bool{}
	s.create("a", s.spec())
	for incarnation := uint64(1); incarnation <= 3; incarnation++ {
		info := s.boot("a")
		if info.Incarnation != incarnation || info.Exit != nil || pids[info.PID] {
			t.Fatalf("boot %d: %+v", incarnation, info)
		}
		pids[info.PID] = true
		if _, err := s.Shutdown(s.ctx(), "a", true, 0); err != nil {
			t.Fatal(err)
		}
	}
}

func forcedReboot(t *testing.T, s *site) {
	before := s.running("a")
	after, err := s.Reboot(s.ctx(), "a", true, 0)
	if err != nil || after.State != lifecycle.Running || after.Incarnation != before.Incarnation+1 || after.PID == before.PID {
		t.Fatalf("rebooted to %+v, %v", after, err)
	}
	s.wantState("a", lifecycle.Running)
}

func deleteRunning(t *testing.T, s *site) {
	s.running("a")
	err := s.Delete(s.ctx(), "a", false)
	s.wantKind(err, types.KindPrecondition, "")
	s.wantState("a", lifecycle.Running)
	if err := s.Delete(s.ctx(), "a", true); err != nil {
		t.Fatal(err)
	}
	s.stop() // the record goes after the answer
	s.wantNothing()
}

func deleteTwice(t *testing.T, s *site) {
	s.create("a", s.spec())
	if err := s.Delete(s.ctx(), "a", false); err != nil {
		t.Fatal(err)
	}
	s.wantKind(s.Delete(s.ctx(), "a", true), types.KindNotFound, "")
}

func reuseID(t *testing.T, s *site) {
	first := s.running("a")
	if err := s.Delete(s.ctx(), "a", true); err != nil {
		t.Fatal(err)
	}
	second := s.create("a", s.spec())
	if second.Seq <= first.Seq || second.Incarnation != 1 || second.State != lifecycle.Created || !second.BootedAt.IsZero() {
		t.Errorf("the second VM of this id is %+v, the first was %+v", second, first)
	}
}

func trueTimes(t *testing.T, s *site) {
	between := func(what string, from, at, to time.Time) {
		t.Helper()
		if at.Before(from) || at.After(to) {
			t.Errorf("%s at %v, which is not between %v and %v", what, at, from, to)
		}
	}
	start := time.Now()
	created := s.create("a", s.spec())
	between("created", start, created.CreatedAt, time.Now())
	again := s.get("a")
	if again.CreatedAt != created.CreatedAt || again.ModifiedAt != created.ModifiedAt || !again.BootedAt.IsZero() {
		t.Errorf("times changed by reading: %+v, then %+v", created, again)
	}
	start = time.Now()
	booted := s.boot("a")
	between("booted", start, booted.BootedAt, time.Now())
	between("modified by boot", start, booted.ModifiedAt, time.Now())
	start = time.Now()
	ended, err := s.Shutdown(s.ctx(), "a", true, 0)
	if err != nil {
		t.Fatal(err)
	}
	between("exited", start, ended.ExitedAt, time.Now())
	between("modified by shutdown", start, ended.ModifiedAt, time.Now())
	s.restart()
	if restored := s.get("a"); !restored.CreatedAt.Equal(created.CreatedAt) || !restored.ExitedAt.Equal(ended.ExitedAt) {
		t.Errorf("times changed by a restart: %+v, then %+v", ended, restored)
	}
}
