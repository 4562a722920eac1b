package qemu

import (
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/unkeyed/unkey/go/deploy/metald/internal/backend/backendtest"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/backend/types"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/guest"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/vm/lifecycle"
)

func asError(err error, target **types.Error) bool { return errors.As(err, target) }

func TestLifeOfAVM(t *testing.T) {
	everywhere(t, func(t *testing.T, r *rig) {
		v := r.create("life", r.spec("metald.count=1"))
		v.want(lifecycle.Created)
		if h := v.Handle(); h.VMM != "QEMU" || !strings.HasPrefix(h.VMMVersion, "7.") && !r.real || h.Process.PID == 0 || v.handle.Process != h.Process {
			t.Errorf("handle %+v, committed %+v", h, v.handle)
		}
		if got := v.screen.String(); got != "" {
			t.Errorf("the guest spoke before it was booted: %q", got)
		}
		must(t, v.Boot(t.Context()))
		v.want(lifecycle.Running)
		v.screen.WaitFor(t, patience, guest.Marker)
		v.screen.WaitFor(t, patience, guest.Second(1))

		must(t, v.Pause(t.Context()))
		v.want(lifecycle.Paused)
		before, err := v.Usage(t.Context())
		must(t, err)
		must(t, v.Resume(t.Context()))
		v.want(lifecycle.Running)
		v.screen.WaitFor(t, patience, guest.Second(3))
		after, err := v.Usage(t.Context())
		must(t, err)
		if *after.CPUTime <= *before.CPUTime {
			t.Errorf("CPU time went from %s to %s", before.CPUTime, after.CPUTime)
		}

		x := v.powerOff()
		if x.Code != 0 || x.Signal != 0 {
			t.Errorf("exit %+v", x)
		}
		v.screen.WaitFor(t, patience, guest.PowerButton)
		must(t, v.Destroy(t.Context()))
		must(t, v.Destroy(t.Context()))
		v.wantGone()
	})
}

// That a real guest does, the conformance suite shows.
func TestAPausedGuestStandsStill(t *testing.T) {
	r := onStub(t)
	v := r.boot("still", "metald.count=1")
	v.screen.WaitFor(t, patience, guest.Second(1))
	must(t, v.Pause(t.Context()))
	had := v.screen.String()
	<-time.After(1500 * time.Millisecond) // what must not happen has to be given its time
	if now := v.screen.String(); now != had {
		t.Errorf("a paused guest wrote %q", strings.TrimPrefix(now, had))
	}
}

// The conformance suite has real guests that end themselves.
func TestEndsOfAGuest(t *testing.T) {
	for _, c := range []struct{ how, reason, detail string }{
		{guest.ExitPowerOff, types.ReasonGuestShutdown, ""},
		{guest.ExitReboot, types.ReasonGuestReset, ""},
		{guest.ExitPanic, types.ReasonGuestPanic, "Kernel panic - not syncing"},
	} {
		t.Run(c.how, func(t *testing.T) {
			r := onStub(t)
			v := r.create("ends", r.spec("metald.exit="+c.how))
			must(t, v.Boot(t.Context()))
			x := v.wantExit(c.reason, patience)
			if x.Code != 0 || !strings.Contains(x.Detail, c.detail) {
				t.Errorf("exit %+v", x)
			}
			must(t, v.Destroy(t.Context()))
			v.wantGone()
		})
	}
}

func TestKilledVMMIsNoticedAtOnce(t *testing.T) {
	everywhere(t, func(t *testing.T, r *rig) {
		v := r.running("killed")
		must(t, syscall.Kill(v.Handle().Process.PID, syscall.SIGKILL))
		if x := v.wantExit(types.ReasonKilled, time.Second); x.Signal != int(syscall.SIGKILL) || x.Code != -1 {
			t.Errorf("exit %+v", x)
		}
		if u, err := v.Usage(t.Context()); err != nil || u.CPUTime == nil || u.Disks != nil || u.MemoryBytes != nil {
			t.Errorf("usage of a VMM that is gone: %+v, %v", u, err)
		}
		if err := v.Pause(t.Context()); types.KindOf(err) != types.KindUnavailable {
			t.Errorf("pause of a VMM that is gone: %v", err)
		}
		must(t, v.Destroy(t.Context()))
		v.wantGone()
	})
}

func TestTerminatedVMM(t *testing.T) {
	everywhere(t, func(t *testing.T, r *rig) {
		v := r.create("term", r.spec())
		must(t, syscall.Kill(v.Handle().Process.PID, syscall.SIGTERM))
		v.wantExit(types.ReasonKilled, 2*time.Second)
	})
}

func TestDestroyOfARunningVM(t *testing.T) {
	everywhere(t, func(t *testing.T, r *rig) {
		v := r.running("destroyed")
		must(t, v.Destroy(t.Context()))
		v.wantExit(types.ReasonForced, 0)
		v.wantGone()
	})
}

// The conformance suite has a real guest that does.
func TestAGuestThatIgnoresThePowerButton(t *testing.T) {
	r := onStub(t)
	v := r.boot("deaf", "metald.power=ignore")
	eventually(t, "the guest has seen the button", func() bool {
		must(t, v.Shutdown(t.Context())) // it may not listen yet
		return strings.Contains(v.screen.String(), guest.PowerButton+guest.Ignored)
	})
	v.want(lifecycle.Running)
}

func TestAdoptedVMGoesOn(t *testing.T) {
	everywhere(t, func(t *testing.T, r *rig) {
		v := r.boot("adopted", "metald.count=1")
		v.Release()
		second := r.another()
		screen := new(backendtest.Screen)
		m, err := second.Adopt(t.Context(), types.AdoptRequest{Handle: v.Handle(), Spec: v.req.Spec, Console: screen})
		must(t, err)
		adopted := &testVM{machine: m.(*machine), t: t, screen: screen, req: v.req}
		t.Cleanup(func() { must(t, adopted.Destroy(context.Background())) })
		adopted.want(lifecycle.Running)
		if len(screen.Notes()) != 1 || !strings.Contains(screen.Notes()[0], "not observed") {
			t.Errorf("the console says %q of metald's absence", screen.Notes())
		}
		screen.WaitFor(t, patience, guest.Prefix+"second")
		must(t, adopted.Pause(t.Context()))
		adopted.want(lifecycle.Paused)
		must(t, adopted.Resume(t.Context()))
		if u, err := adopted.Usage(t.Context()); err != nil || u.CPUTime == nil || u.Disks["root"].ReadBytes == 0 {
			t.Errorf("usage %+v, %v", u, err)
		}
		adopted.powerOff()
		must(t, adopted.Destroy(t.Context()))
		adopted.wantGone()
	})
}

func TestKilledWhileAdopted(t *testing.T) {
	everywhere(t, func(t *testing.T, r *rig) {
		v := r.running("orphan")
		v.Release()
		m, err := r.another().Adopt(t.Context(), types.AdoptRequest{Handle: v.Handle(), Spec: v.req.Spec, Console: io.Discard})
		must(t, err)
		adopted := &testVM{machine: m.(*machine), t: t, screen: v.screen, req: v.req}
		t.Cleanup(func() { must(t, adopted.Destroy(context.Background())) })
		must(t, syscall.Kill(v.Handle().Process.PID, syscall.SIGKILL))
		adopted.wantExit(types.ReasonKilled, time.Second)
	})
}

func TestAdoptOfWhatIsGone(t *testing.T) {
	everywhere(t, func(t *testing.T, r *rig) {
		v := r.create("gone", r.spec())
		must(t, v.Destroy(t.Context()))
		req := types.AdoptRequest{Handle: v.Handle(), Spec: v.req.Spec}
		if _, err := r.backend.Adopt(t.Context(), req); !errors.Is(err, types.ErrGone) {
			t.Errorf("adopt: %v", err)
		}
		backendtest.Reap(t, r.backend, v.Handle())
		req.Handle.Process.BootID = "another"
		if _, err := r.backend.Adopt(t.Context(), req); !errors.Is(err, types.ErrGone) {
			t.Errorf("adopt after a reboot of the host: %v", err)
		}
	})
}

func TestReapEndsWhatNobodyAdopted(t *testing.T) {
	everywhere(t, func(t *testing.T, r *rig) {
		v := r.running("reaped")
		v.Release()
		backendtest.Reap(t, r.another(), v.Handle())
		backendtest.Reap(t, r.another(), v.Handle())
		v.wantGone()
	})
}

func TestAStoppedVMMHoldsUpNothing(t *testing.T) {
	everywhere(t, func(t *testing.T, r *rig) {
		v := r.running("stopped")
		pid := v.Handle().Process.PID
		must(t, syscall.Kill(pid, syscall.SIGSTOP))
		eventually(t, "the VMM is stopped", func() bool { return pidState(t, pid) == "T" })

		soon, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
		defer cancel()
		bounded(t, time.Second, func() {
			if _, err := v.State(soon); types.KindOf(err) != types.KindUnavailable {
				t.Errorf("state: %v", err)
			}
		})
		bounded(t, 2*time.Second, func() {
			if u, err := v.Usage(t.Context()); err != nil || u.CPUTime == nil || u.MemoryBytes == nil || u.Disks != nil {
				t.Errorf("usage %+v, %v", u, err)
			}
		})
		v.Release()
		second := r.another()
		again, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
		defer cancel()
		bounded(t, time.Second, func() {
			_, err := second.Adopt(again, types.AdoptRequest{Handle: v.Handle(), Spec: v.req.Spec, Console: v.screen})
			if types.KindOf(err) != types.KindUnavailable || errors.Is(err, types.ErrGone) {
				t.Errorf("adopt: %v", err)
			}
		})
		must(t, syscall.Kill(pid, syscall.SIGCONT))
		m, err := second.Adopt(t.Context(), types.AdoptRequest{Handle: v.Handle(), Spec: v.req.Spec, Console: v.screen})
		must(t, err)
		adopted := &testVM{machine: m.(*machine), t: t, screen: v.screen, req: v.req}
		adopted.want(lifecycle.Running)

		must(t, syscall.Kill(pid, syscall.SIGSTOP))
		bounded(t, quitTimeout+2*time.Second, func() { must(t, adopted.Destroy(t.Context())) })
		adopted.wantExit(types.ReasonForced, 0)
		adopted.wantGone()
	})
}

func bounded(t *testing.T, limit time.Duration, do func()) {
	t.Helper()
	began := time.Now()
	do()
	if took := time.Since(began); took > limit {
		t.Errorf("took %s, more than %s", took, limit)
	}
}

// The conformance suite has a real guest fail to write.
func TestAReadOnlyDiskIsReadOnly(t *testing.T) {
	r := onStub(t)
	spec := r.spec("metald.touch=/")
	spec.Disks[0].ReadOnly = true
	v := r.create("readonly", spec)
	must(t, v.Boot(t.Context()))
	v.screen.WaitFor(t, patience, guest.TouchRefused("/", "EROFS"))
}

func TestUsageCountsWhatTheGuestWrites(t *testing.T) {
	everywhere(t, func(t *testing.T, r *rig) {
		const bytes = 4 << 20
		spec := r.spec("metald.write=4194304")
		v := r.create("writer", spec)
		must(t, v.Boot(t.Context()))
		v.screen.WaitFor(t, patience, guest.Prefix+"wrote")
		u, err := v.Usage(t.Context())
		must(t, err)
		d := u.Disks["root"]
		if d.WriteBytes < bytes || d.WriteOps == 0 || d.ReadBytes == 0 || d.ReadOps == 0 {
			t.Errorf("disk usage %+v", d)
		}
		if *u.CPUTime <= 0 || *u.MemoryBytes < 1<<20 || u.Networks != nil {
			t.Errorf("usage %+v", u)
		}
	})
}

func TestRootIsTheMarkedDisk(t *testing.T) {
	r := onQEMU(t)
	spec := r.spec("metald.touch=/dev/vda,/dev/vdb")
	spec.Disks = []types.Disk{{ID: "data", ReadOnly: true}, {ID: "system", Root: true}}
	v := r.create("two", spec)
	must(t, v.Boot(t.Context()))
	v.screen.WaitFor(t, patience, guest.TouchRefused("/dev/vdb", ""))
	u, err := v.Usage(t.Context())
	must(t, err)
	if u.Disks["system"].WriteBytes == 0 || u.Disks["data"].WriteBytes != 0 {
		t.Errorf("usage %+v", u.Disks)
	}
}

func TestConsoleOff(t *testing.T) {
	everywhere(t, func(t *testing.T, r *rig) {
		spec := r.spec("metald.exit=poweroff")
		spec.Console.Enabled = false
		v := r.create("silent", spec)
		must(t, v.Boot(t.Context()))
		v.wantExit(types.ReasonGuestShutdown, patience)
		if got := v.screen.String(); got != "" {
			t.Errorf("console: %q", got)
		}
	})
}

func TestConsoleThatIsNotKept(t *testing.T) {
	everywhere(t, func(t *testing.T, r *rig) {
		spec := r.spec("metald.exit=panic")
		spec.Console.Output = "none"
		v := r.create("unkept", spec)
		must(t, v.Boot(t.Context()))
		v.wantExit(types.ReasonGuestPanic, patience) // it is read all the same
		if got := v.screen.String(); got != "" {
			t.Errorf("console: %q", got)
		}
	})
}

func TestAsAnOrdinaryUser(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root can start a VMM as somebody else")
	}
	everywhere(t, func(t *testing.T, r *rig) {
		// Nothing that the VMM uses can be reached by its user: the files are opened for it.
		closed := filepath.Join(r.dir, "closed")
		must(t, os.Mkdir(closed, 0o700))
		kernel := filepath.Join(closed, "kernel")
		backendtest.Copy(t, bzImage(r.kernel), kernel)
		must(t, os.Chmod(kernel, 0o600))
		req := r.request("user", r.spec())
		disk := filepath.Join(closed, "disk")
		must(t, os.Rename(req.Disks[0], disk))
		must(t, os.Chmod(disk, 0o600))
		req.Kernel, req.Disks, req.RunDir, req.UID, req.GID = kernel, []string{disk}, filepath.Join(closed, "run"), 700123, 700123
		v := r.createFrom(req)
		must(t, v.Boot(t.Context()))
		v.screen.WaitFor(t, patience, guest.Marker)
		status, err := os.ReadFile(filepath.Join("/proc", pidText(v), "status"))
		must(t, err)
		if !strings.Contains(string(status), "Uid:\t700123\t700123\t700123\t700123") {
			t.Errorf("status of the VMM:\n%s", status)
		}
		v.powerOff()
	})
}
