package conformance

import (
	"context"
	"os/exec"
	"syscall"
	"testing"
	"time"

	"github.com/unkeyed/unkey/go/deploy/metald/internal/backend/types"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/guest"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/vm"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/vm/lifecycle"
)

func adoptionSentences() []sentence {
	return []sentence{
		{"a restart of metald finds every VM as it was", nil, adoptAll},
		{"an adopted VM obeys", nil, adoptAndDrive},
		{"an adopted VM's end is seen", nil, adoptAndKill},
		{"the console goes on after a restart", []Ability{Guest}, adoptConsole},
		{"a pid that another process got is not taken for the VMM", nil, adoptReusedPID},
		{"a VMM that ended while metald was away is found shut down", nil, endedWhileAway},
		{"a reboot that a restart interrupted is finished", []Ability{Guest}, rebootOverRestart},
		{"a reboot whose guest ended while metald was away is finished", []Ability{Guest}, rebootWhileAway},
		{"a VMM that does not answer is reported, and taken back when it does", []Ability{Mute}, adoptMute},
		{"a VMM that does not answer can be deleted by force", []Ability{Mute}, deleteMute},
	}
}

func adoptAll(t *testing.T, s *site) {
	s.create("created", s.spec())
	s.running("running")
	s.running("paused")
	if _, err := s.Pause(s.ctx(), "paused"); err != nil {
		t.Fatal(err)
	}
	s.running("ended")
	if _, err := s.Shutdown(s.ctx(), "ended", true, 0); err != nil {
		t.Fatal(err)
	}
	before := s.all()
	for range 2 {
		s.restart()
		after := s.all()
		if len(after) != len(before) {
			t.Fatalf("%d VMs became %d", len(before), len(after))
		}
		for i, was := range before {
			is := after[i]
			if is.ID != was.ID || is.State != was.State || is.PID != was.PID || is.Incarnation != was.Incarnation ||
				is.VMM != was.VMM || is.VMMVersion != was.VMMVersion || is.Health != "" || !is.BootedAt.Equal(was.BootedAt) {
				t.Errorf("%+v became %+v", was, is)
			}
		}
	}
}

func adoptAndDrive(t *testing.T, s *site) {
	s.running("a")
	s.restart()
	if _, err := s.Pause(s.ctx(), "a"); err != nil {
		t.Fatal(err)
	}
	s.restart()
	if _, err := s.Resume(s.ctx(), "a"); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Shutdown(s.ctx(), "a", true, 0); err != nil {
		t.Fatal(err)
	}
	s.restart()
	if info := s.boot("a"); info.Incarnation != 2 {
		t.Errorf("booted to %+v", info)
	}
}

func adoptAndKill(_ *testing.T, s *site) {
	info := s.running("a")
	s.restart()
	s.h.KillVMM(s.t, info)
	ended := s.reaches("a", lifecycle.Shutdown, time.Second)
	// Who is not its parent may not be told by what a process ended.
	if ended.Exit == nil || ended.Exit.Reason != types.ReasonKilled && ended.Exit.Reason != types.ReasonUnobserved {
		s.t.Errorf("it ended with %+v", ended.Exit)
	}
}

func adoptConsole(t *testing.T, s *site) {
	s.guest("a", guest.ArgCount+"=1")
	s.restart()
	log, err := s.Console("a")
	if err != nil {
		t.Fatal(err)
	}
	if kept, err := log.Tail(consoleBytes); err != nil || len(kept) == 0 {
		t.Errorf("the console before the restart: %d bytes, %v", len(kept), err)
	}
	ctx, cancel := context.WithTimeout(s.ctx(), s.h.BootTimeout)
	defer cancel()
	heard := ""
	for r := log.Reader(0); !containsSecond(heard); {
		chunk, err := r.Next(ctx, true)
		if err != nil {
			t.Fatalf("nothing was heard of the guest after the restart: %v; %q", err, heard)
		}
		heard += string(chunk.Bytes)
	}
}

func adoptReusedPID(t *testing.T, s *site) {
	info := s.running("a")
	s.stop()
	rec, ok := s.record("a")
	if !ok || rec.Handle == nil {
		t.Fatalf("the record is %+v", rec)
	}
	other := exec.Command("sleep", "3600")
	if err := other.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		_ = other.Process.Kill()
		_ = other.Wait()
		s.h.KillVMM(t, info) // where nothing else tells that the VMM is the VM's
	}()
	// No pid is reused within a tick, and this process may have begun in that of the VMM.
	rec.Handle.Process.PID, rec.Handle.Process.StartTicks = other.Process.Pid, rec.Handle.Process.StartTicks-1
	if err := s.records.Put(rec); err != nil {
		t.Fatal(err)
	}
	s.start()
	s.wantExit(s.wantState("a", lifecycle.Shutdown), types.ReasonUnobserved)
	if err := other.Process.Signal(syscall.Signal(0)); err != nil {
		t.Errorf("a process that was not the VMM was ended: %v", err)
	}
}

func endedWhileAway(t *testing.T, s *site) {
	created := s.create("created", s.spec())
	running := s.running("running")
	s.stop()
	s.h.KillVMM(t, created)
	s.h.KillVMM(t, running)
	s.start()
	for _, id := range []types.VMID{"created", "running"} {
		s.wantExit(s.wantState(id, lifecycle.Shutdown), types.ReasonUnobserved)
	}
	if info := s.boot("running"); info.Incarnation != 2 {
		t.Errorf("booted to %+v", info)
	}
}

// pendingReboot returns a VM that was asked to reboot, and whose guest ignores it: most of them as they have just
// begun to start.
func (s *site) pendingReboot(id types.VMID) (vm.Info, <-chan error) {
	s.t.Helper()
	info := s.running(id, guest.ArgPower+"="+guest.PowerIgnore)
	asked := async(func() error {
		_, err := s.Reboot(s.ctx(), id, false, time.Minute)
		return err
	})
	s.becomes(id, "one that is to reboot", patience, func(vm.Info) bool {
		rec, ok := s.record(id)
		return ok && !rec.RebootBy.IsZero()
	})
	return info, asked
}

func rebootOverRestart(t *testing.T, s *site) {
	info, asked := s.pendingReboot("a")
	s.restart()
	if err := s.wait(asked, "reboot"); types.KindOf(err) != types.KindUnavailable {
		t.Errorf("who asked for the reboot was told: %v", err)
	}
	s.wantState("a", lifecycle.Running)
	s.h.KillVMM(t, info)
	s.becomes("a", "rebooted", patience, func(now vm.Info) bool {
		return now.State == lifecycle.Running && now.Incarnation == info.Incarnation+1
	})
}

func rebootWhileAway(t *testing.T, s *site) {
	info, asked := s.pendingReboot("a")
	s.stop()
	if err := s.wait(asked, "reboot"); types.KindOf(err) != types.KindUnavailable {
		t.Errorf("who asked for the reboot was told: %v", err)
	}
	s.h.KillVMM(t, info)
	s.start()
	if now := s.wantState("a", lifecycle.Running); now.Incarnation != info.Incarnation+1 {
		t.Errorf("rebooted to %+v", now)
	}
}

func adoptMute(t *testing.T, s *site) {
	before := s.running("a")
	unmute := s.h.MuteVMM(t, before)
	s.restart()
	info := s.get("a")
	if info.Health == "" || info.State != lifecycle.Running || info.PID != before.PID {
		t.Errorf("a VM whose VMM is mute is %+v", info)
	}
	_, err := s.Pause(s.ctx(), "a")
	s.wantKind(err, types.KindUnavailable, "")
	unmute()
	s.becomes("a", "healthy", patience, func(info vm.Info) bool { return info.Health == "" })
	if _, err := s.Pause(s.ctx(), "a"); err != nil {
		t.Error(err)
	}
}

func deleteMute(t *testing.T, s *site) {
	s.h.MuteVMM(t, s.running("adopted"))
	s.restart()
	s.h.MuteVMM(t, s.running("held"))
	for _, id := range []types.VMID{"adopted", "held"} {
		if err := s.Delete(s.ctx(), id, true); err != nil {
			t.Error(err)
		}
	}
}
