package conformance

import (
	"testing"
	"time"

	"github.com/unkeyed/unkey/go/deploy/metald/internal/backend/types"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/vm"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/vm/lifecycle"
)

func failureSentences() []sentence {
	return []sentence{
		{"a VMM that is killed while its guest is paused is seen within a second", nil, killedPaused},
		{"a VMM that is killed in the middle of a verb ends it, and is seen", []Ability{Mute}, killedInVerb},
		{"the end of one VMM is the end of no other", nil, killedBesideAnother},
	}
}

// settled says that nothing about a VM is open.
func settled(info vm.Info) bool { return info.Health == "" }

func killedPaused(t *testing.T, s *site) {
	info := s.running("a")
	if _, err := s.Pause(s.ctx(), "a"); err != nil {
		t.Fatal(err)
	}
	s.h.KillVMM(t, info)
	s.wantExit(s.reaches("a", lifecycle.Shutdown, time.Second), types.ReasonKilled)
}

func killedInVerb(t *testing.T, s *site) {
	verbs := s.verbs()
	for _, v := range verbs {
		v.muted = s.h.MuteVMM(t, v.info)
	}
	for _, v := range verbs {
		v.asked = async(func() error { return v.do(s.ctx()) })
	}
	<-time.After(underWay)
	for _, v := range verbs {
		s.h.KillVMM(t, v.info)
		err := s.wait(v.asked, v.what)
		if v.what == "boot" && err == nil { // it was asked for when the VMM was dead already
			if now := s.wantState(v.info.ID, lifecycle.Running); now.Incarnation != v.info.Incarnation+1 {
				t.Errorf("booted to %+v", now)
			}
			continue
		}
		switch kind := types.KindOf(err); {
		case err == nil && v.what == "shutdown", err != nil && (kind == types.KindUnavailable || kind == types.KindPrecondition):
		default:
			t.Errorf("%s of a VMM that was killed: %v", v.what, err)
		}
		s.wantExit(s.reaches(v.info.ID, lifecycle.Shutdown, patience), types.ReasonKilled)
	}
}

func killedBesideAnother(t *testing.T, s *site) {
	doomed, other := s.running("a"), s.running("b")
	s.h.KillVMM(t, doomed)
	s.reaches("a", lifecycle.Shutdown, time.Second)
	if now := s.wantState("b", lifecycle.Running); now.PID != other.PID {
		t.Errorf("%+v became %+v", other, now)
	}
	if _, err := s.Pause(s.ctx(), "b"); err != nil {
		t.Error(err)
	}
}
