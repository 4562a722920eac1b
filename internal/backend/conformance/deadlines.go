package conformance

import (
	"context"
	"testing"
	"time"

	"github.com/unkeyed/unkey/go/deploy/metald/internal/backend/types"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/vm"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/vm/lifecycle"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/vm/store"
)

func deadlineSentences() []sentence {
	return []sentence{
		{"each verb on a VMM that does not answer ends by itself, and the state is observed when it answers", []Ability{Mute}, verbsOnMute},
		{"a verb whose caller gives up before it was done leaves a state that is so", []Ability{Mute}, verbsGivenUp},
		{"a deletion whose caller gives up is finished", nil, deleteGivenUp},
		{"a deletion of a VM that is being created finds none, and does it no harm", nil, deleteWhileCreating},
	}
}

// verb is one of those that ask the VMM, and a VM of its own in a state in which that is legal.
type verb struct {
	what  string
	info  vm.Info
	do    func(context.Context) error
	asked <-chan error
	muted func()
}

// verbTime is longer than any verb may take that its VMM does not answer.
const verbTime = 45 * time.Second

// underWay is about how long it takes a verb to be at its VMM. Where that is longer, less is tested.
const underWay = 20 * time.Millisecond

func (s *site) verbs() []*verb {
	s.t.Helper()
	boot := s.create("boot", s.spec())
	pause := s.running("pause")
	resume := s.running("resume")
	if _, err := s.Pause(s.ctx(), "resume"); err != nil {
		s.t.Fatal(err)
	}
	shutdown := s.running("shutdown")
	return []*verb{
		{what: "boot", info: boot, do: func(ctx context.Context) error { _, err := s.Boot(ctx, "boot"); return err }},
		{what: "pause", info: pause, do: func(ctx context.Context) error { _, err := s.Pause(ctx, "pause"); return err }},
		{what: "resume", info: resume, do: func(ctx context.Context) error { _, err := s.Resume(ctx, "resume"); return err }},
		{what: "shutdown", info: shutdown, do: func(ctx context.Context) error {
			_, err := s.Shutdown(ctx, "shutdown", false, 100*time.Millisecond)
			return err
		}},
	}
}

func verbsOnMute(t *testing.T, s *site) {
	verbs := s.verbs()
	for _, v := range verbs {
		v.muted = s.h.MuteVMM(t, v.info)
	}
	for _, v := range verbs {
		v.asked = async(func() error { return v.do(s.ctx()) })
	}
	begun := time.Now()
	for _, v := range verbs {
		err := s.wait(v.asked, v.what)
		// Asking a guest may be no more than words into a socket.
		if kind := types.KindOf(err); kind != types.KindUnavailable && (kind != types.KindDeadline || v.what != "shutdown") {
			t.Errorf("%s of a VMM that does not answer: %v", v.what, err)
		}
		if now := s.get(v.info.ID); now.PID != v.info.PID {
			t.Errorf("%s: the VMM of %+v was given up: %+v", v.what, v.info, now)
		}
		if took := time.Since(begun); took > verbTime {
			t.Errorf("%s of a VMM that does not answer took %s", v.what, took)
		}
	}
	for _, v := range verbs {
		v.muted()
	}
	for _, v := range verbs {
		s.becomes(v.info.ID, "observed again, or shut down", verbTime, func(now vm.Info) bool {
			return settled(now) && (now.PID == v.info.PID || now.State == lifecycle.Shutdown)
		})
	}
	s.agrees()
}

// agrees checks that what metald says of each VM is what the VMMs say.
func (s *site) agrees() {
	s.t.Helper()
	said := s.all()
	s.restart() // all are asked anew
	for _, was := range said {
		if is := s.get(was.ID); is.State != was.State || is.PID != was.PID && was.State != lifecycle.Shutdown {
			s.t.Errorf("%+v was said to be %+v", is, was)
		}
	}
}

func verbsGivenUp(t *testing.T, s *site) {
	verbs := s.verbs()
	ctx, cancel := context.WithCancel(s.ctx())
	defer cancel()
	for _, v := range verbs {
		v.muted = s.h.MuteVMM(t, v.info)
	}
	for _, v := range verbs {
		v.asked = async(func() error { return v.do(ctx) })
	}
	<-time.After(underWay)
	cancel()
	for _, v := range verbs {
		switch err := s.wait(v.asked, v.what); types.KindOf(err) {
		case types.KindCanceled, types.KindUnavailable, types.KindDeadline:
		default:
			t.Errorf("%s whose caller gave up: %v", v.what, err)
		}
	}
	for _, v := range verbs {
		v.muted()
	}
	for _, v := range verbs {
		s.becomes(v.info.ID, "settled", patience, settled)
	}
	s.quiet(verbs)
	s.agrees()
}

// quiet returns once each VM has done what it was asked: a verb that is refused comes after all of them.
func (s *site) quiet(verbs []*verb) {
	s.t.Helper()
	for _, v := range verbs {
		if v.what == "shutdown" { // its guest may still obey
			if _, err := s.Shutdown(s.ctx(), v.info.ID, true, 0); err != nil {
				s.t.Error(err)
			}
			continue
		}
		if err := s.Delete(s.ctx(), v.info.ID, false); types.KindOf(err) != types.KindPrecondition && err != nil {
			s.t.Errorf("%s: %v", v.what, err)
		}
	}
}

func deleteGivenUp(t *testing.T, s *site) {
	s.running("a")
	stalled, release := s.stall(func(rec store.Record) bool { return rec.Phase == store.Deleting })
	ctx, cancel := context.WithCancel(s.ctx())
	asked := async(func() error { return s.Delete(ctx, "a", true) })
	<-stalled
	cancel()
	if err := s.wait(asked, "delete"); types.KindOf(err) != types.KindCanceled {
		t.Errorf("who gave up was told: %v", err)
	}
	release()
	s.disappears("a")
	s.stop() // the record goes after that
	s.wantNothing()
}

func deleteWhileCreating(t *testing.T, s *site) {
	stalled, release := s.stall(func(store.Record) bool { return true })
	created := async(func() error { _, err := s.Create(s.ctx(), "a", s.spec()); return err })
	<-stalled
	s.wantKind(s.Delete(s.ctx(), "a", true), types.KindNotFound, "")
	release()
	if err := s.wait(created, "create"); err != nil {
		t.Error(err)
	}
	s.wantState("a", lifecycle.Created)
	s.boot("a")
}
