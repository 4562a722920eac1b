package conformance

import (
	"cmp"
	"strings"
	"testing"
	"time"

	"github.com/unkeyed/unkey/go/deploy/metald/internal/backend/types"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/guest"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/vm/lifecycle"
)

func endSentences() []sentence {
	return []sentence{
		{"a VMM that is killed is seen within a second", nil, killed},
		{"a VMM that is killed before it booted is seen within a second", nil, killedBeforeBoot},
		{"a guest that powers off by itself is shut down, and why is told", []Ability{Guest}, endsItself(guest.ExitPowerOff, types.ReasonGuestShutdown, "")},
		{"a guest that restarts by itself is shut down, and why is told", []Ability{Guest}, endsItself(guest.ExitReboot, types.ReasonGuestReset, "")},
		{"a guest that panics is shut down, and why is told", []Ability{Guest}, endsItself(guest.ExitPanic, types.ReasonGuestPanic, "Kernel panic - not syncing")},
		{"a guest that is asked to shut down does, and why is told", []Ability{Guest}, gracefulShutdown},
		{"a guest that is asked to reboot does, with the same disks", []Ability{Guest, GuestDisks}, gracefulReboot},
		{"a guest that ignores the power button runs on and can be ended by force", []Ability{Guest}, ignoredPower},
	}
}

func killed(t *testing.T, s *site) {
	info := s.running("a")
	s.h.KillVMM(t, info)
	s.wantExit(s.reaches("a", lifecycle.Shutdown, time.Second), types.ReasonKilled)
	if again := s.boot("a"); again.Incarnation != 2 {
		t.Errorf("booted to %+v", again)
	}
}

func killedBeforeBoot(t *testing.T, s *site) {
	info := s.create("a", s.spec())
	s.h.KillVMM(t, info)
	s.wantExit(s.reaches("a", lifecycle.Shutdown, time.Second), types.ReasonKilled)
}

func endsItself(exit, reason, detail string) func(*testing.T, *site) {
	return func(t *testing.T, s *site) {
		s.guest("a", guest.ArgExit+"="+exit, guest.ArgAfter+"=300ms")
		info := s.reaches("a", lifecycle.Shutdown, s.h.BootTimeout)
		s.wantExit(info, reason)
		if info.Exit.Code > 0 || !strings.Contains(info.Exit.Detail, detail) {
			t.Errorf("it ended with %+v, want %q in the detail", info.Exit, detail)
		}
	}
}

func gracefulShutdown(t *testing.T, s *site) {
	s.guest("a")
	info, err := s.Shutdown(s.ctx(), "a", false, s.h.BootTimeout)
	if err != nil || info.State != lifecycle.Shutdown {
		t.Fatalf("shut down to %+v, %v", info, err)
	}
	s.wantExit(s.wantState("a", lifecycle.Shutdown), types.ReasonGuestShutdown)
	s.hears("a", cmp.Or(s.h.SaysLast, guest.PoweringOff))
	if _, err := s.Shutdown(s.ctx(), "a", false, time.Second); err != nil {
		t.Errorf("shut down once more: %v", err)
	}
}

func gracefulReboot(t *testing.T, s *site) {
	before := s.guest("a", writes()...)
	s.hears("a", guest.Wrote(4096, written))
	after, err := s.Reboot(s.ctx(), "a", false, s.h.BootTimeout)
	if err != nil || after.State != lifecycle.Running || after.Incarnation != before.Incarnation+1 || after.PID == before.PID {
		t.Fatalf("rebooted to %+v, %v", after, err)
	}
	if !s.isWritten("a") {
		t.Error("what the guest wrote before the reboot is not on its disk")
	}
	s.hearsTimes("a", guest.Marker, 2)
}

// ignoredPower is several sentences about one guest, since each boot takes time.
func ignoredPower(t *testing.T, s *site) {
	before := s.guest("a", guest.ArgPower+"="+guest.PowerIgnore)
	t.Run("a shutdown ends at the deadline and the VM runs", func(t *testing.T) {
		_, err := s.Shutdown(s.ctx(), "a", false, 300*time.Millisecond)
		s.wantKind(err, types.KindDeadline, "")
		s.wantState("a", lifecycle.Running)
	})
	t.Run("a reboot ends at the deadline and the VM runs", func(t *testing.T) {
		_, err := s.Reboot(s.ctx(), "a", false, 300*time.Millisecond)
		s.wantKind(err, types.KindDeadline, "")
		if now := s.wantState("a", lifecycle.Running); now.PID != before.PID || now.Incarnation != before.Incarnation {
			t.Errorf("%+v became %+v", before, now)
		}
	})
	waiting := async(func() error {
		_, err := s.Shutdown(s.ctx(), "a", false, time.Minute)
		return err
	})
	s.hearsTimes("a", guest.Ignored, 3)
	t.Run("a pause is served while a shutdown waits", func(t *testing.T) {
		if _, err := s.Pause(s.ctx(), "a"); err != nil {
			t.Error(err)
		}
		if _, err := s.Resume(s.ctx(), "a"); err != nil {
			t.Error(err)
		}
	})
	t.Run("a forced shutdown is served while another waits", func(t *testing.T) {
		if info, err := s.Shutdown(s.ctx(), "a", true, 0); err != nil || info.State != lifecycle.Shutdown {
			t.Errorf("shut down to %+v, %v", info, err)
		}
		s.wantExit(s.get("a"), types.ReasonForced)
		if err := s.wait(waiting, "shutdown"); err != nil {
			t.Errorf("the shutdown that waited: %v", err)
		}
	})
}
