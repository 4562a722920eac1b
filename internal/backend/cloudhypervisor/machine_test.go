package cloudhypervisor

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/unkeyed/unkey/go/deploy/metald/internal/backend/backendtest"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/backend/cage"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/backend/types"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/guest"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/vm/lifecycle"
)

// knobs gives the stand-in of this rig alone what makes it slow or wrong.
func (r *rig) knobs(words ...string) {
	r.t.Helper()
	dir := filepath.Join(r.dir, "bin")
	must(r.t, os.Mkdir(dir, 0o755))
	binary := filepath.Join(dir, "cloud-hypervisor")
	backendtest.Copy(r.t, r.config.Binary, binary)
	must(r.t, os.Chmod(binary, 0o755))
	backendtest.Write(r.t, binary+".knobs", []byte(strings.Join(words, "\n")+"\n"))
	r.config.Binary = binary
	r.backend = r.another()
}

func TestEndsOfAGuest(t *testing.T) {
	for _, c := range []struct{ how, reason string }{
		{guest.ExitReboot, types.ReasonGuestReset}, {guest.ExitPanic, types.ReasonGuestPanic}, {guest.ExitPowerOff, types.ReasonGuestShutdown},
	} {
		t.Run(c.how, func(t *testing.T) {
			onStubs(t, func(t *testing.T, r *rig) {
				v := r.running("ends", "metald.exit="+c.how)
				v.wantExit(c.reason)
				must(t, v.Destroy(t.Context()))
				v.wantGone()
			})
		})
	}
}

// A guest that restarts while no metald is there is not taken for the one that was booted.
func TestARestartWhileMetaldIsAway(t *testing.T) {
	onStubs(t, func(t *testing.T, r *rig) {
		v := r.boot("away", "metald.exit="+guest.ExitReboot, guest.ArgAfter+"=300ms")
		v.Release()
		v.awaitUnread(eventsName, 1)
		v.adopt(r.another()).wantExit(types.ReasonGuestReset)
	})
}

func TestPowerButton(t *testing.T) {
	onStubs(t, func(t *testing.T, r *rig) {
		v := r.boot("hears")
		must(t, v.Shutdown(t.Context()))
		v.wantExit(types.ReasonGuestShutdown)

		deaf := r.boot("deaf", "metald.power=ignore")
		must(t, deaf.Shutdown(t.Context()))
		deaf.screen.WaitFor(t, guestPatience, guest.Ignored)
		deaf.want(lifecycle.Running)
	})
}

func TestKilledVMMIsNoticedAtOnce(t *testing.T) {
	onStubs(t, func(t *testing.T, r *rig) {
		v := r.running("killed")
		must(t, syscall.Kill(v.Handle().Process.PID, syscall.SIGKILL))
		if x := v.wantExit(types.ReasonKilled); x.Signal != int(syscall.SIGKILL) || x.Code != -1 {
			t.Errorf("exit %+v", x)
		}
		if u, err := v.Usage(t.Context()); err != nil || u.CPUTime == nil || u.Disks != nil || u.MemoryBytes != nil {
			t.Errorf("usage of a VMM that is gone: %+v, %v", u, err)
		}
		if err := v.Pause(t.Context()); types.KindOf(err) != types.KindUnavailable {
			t.Errorf("pause of a VMM that is gone: %v", err)
		}
	})
}

func TestPauseAndResumeTwice(t *testing.T) {
	onStubs(t, func(t *testing.T, r *rig) {
		v := r.boot("still", "metald.count=1")
		for range 2 {
			must(t, v.Pause(t.Context()))
			v.want(lifecycle.Paused)
		}
		for range 2 {
			must(t, v.Resume(t.Context()))
			v.want(lifecycle.Running)
		}
		v.screen.WaitFor(t, guestPatience, guest.Second(2))
	})
}

// stop has the VMM stand still, and returns what lets it go on.
func (v *testVM) stop() (goOn func()) {
	v.t.Helper()
	pid := v.Handle().Process.PID
	must(v.t, syscall.Kill(pid, syscall.SIGSTOP))
	eventually(v.t, "the VMM is stopped", func() bool { return pidState(pid) == "T" })
	return func() { must(v.t, syscall.Kill(pid, syscall.SIGCONT)) }
}

func bounded(t *testing.T, limit time.Duration, do func()) {
	t.Helper()
	began := time.Now()
	do()
	if took := time.Since(began); took > limit {
		t.Errorf("took %s, more than %s", took, limit)
	}
}

func TestAStoppedVMMHoldsUpNothing(t *testing.T) {
	onStubs(t, func(t *testing.T, r *rig) {
		v := r.boot("stopped", "metald.write=4096")
		v.wantWritten(4096)
		goOn := v.stop()

		soon, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
		defer cancel()
		bounded(t, time.Second, func() {
			if _, err := v.State(soon); types.KindOf(err) != types.KindUnavailable {
				t.Errorf("state: %v", err)
			}
		})
		bounded(t, lookTimeout+time.Second, func() {
			if u, err := v.Usage(t.Context()); err != nil || u.CPUTime == nil || u.MemoryBytes == nil || u.Disks["root"].WriteBytes != 4096 {
				t.Errorf("usage %+v, %v", u, err)
			}
		})
		bounded(t, 2*time.Second, v.Release)

		second := r.another()
		again, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
		defer cancel()
		bounded(t, time.Second, func() {
			_, err := second.Adopt(again, types.AdoptRequest{Handle: v.Handle(), Spec: v.req.Spec, Console: v.screen})
			if types.KindOf(err) != types.KindUnavailable || errors.Is(err, types.ErrGone) {
				t.Errorf("adopt: %v", err)
			}
		})
		goOn()
		adopted := v.adopt(second)
		adopted.want(lifecycle.Running)
		adopted.stop()
		bounded(t, 3*time.Second, func() { must(t, adopted.Destroy(t.Context())) })
		adopted.wantExit(types.ReasonForced)
	})
}

// wantWritten waits until the root disk's bytes are counted; more than that is never seen.
func (v *testVM) wantWritten(bytes int64) {
	v.t.Helper()
	eventually(v.t, fmt.Sprintf("%d bytes are counted", bytes), func() bool {
		u, err := v.Usage(v.t.Context())
		must(v.t, err)
		got := u.Disks["root"].WriteBytes
		if got > bytes {
			v.t.Fatalf("%d bytes are counted, and %d were written", got, bytes)
		}
		return got == bytes
	})
}

func TestUsageIsWhatTheGuestWrote(t *testing.T) {
	onStubs(t, func(t *testing.T, r *rig) {
		const bytes = 5<<20 + 123
		v := r.create("writer", r.spec(fmt.Sprintf("metald.write=%d", bytes)))
		if u, err := v.Usage(t.Context()); err != nil || u.Disks != nil || u.CPUTime == nil || u.MemoryBytes == nil {
			t.Errorf("before the boot: %+v, %v", u, err)
		}
		must(t, v.Boot(t.Context()))
		v.screen.WaitFor(t, guestPatience, guest.Wrote(bytes, guest.WriteFile))
		v.wantWritten(bytes)
		for range 3 { // every metald says the same, and none says more
			v.Release()
			v = v.adopt(r.another())
			v.wantWritten(bytes)
		}
		must(t, v.Pause(t.Context()))
		v.Release()
		v = v.adopt(r.another())
		v.wantWritten(bytes)
		must(t, v.Destroy(t.Context()))
		v.wantWritten(bytes)
	})
}

// Counters that fell are another guest's, whatever became of the event.
func TestCountersThatFell(t *testing.T) {
	v := onStub(t, true).boot("fell", "metald.write=4096")
	v.wantWritten(4096)
	v.meter.mu.Lock()
	v.meter.totals[diskID(0)]["write_bytes"] = 1 << 40
	v.meter.mu.Unlock()
	v.wantExit(types.ReasonGuestReset)
}

// A pause that nobody asked metald for is told.
func TestStoppedUnasked(t *testing.T) {
	r := onStub(t, false)
	req := r.request("stops", r.spec())
	stops := make(chan struct{}, 10)
	req.Stopped = func() { stops <- struct{}{} }
	v := r.createFrom(req)
	must(t, v.Boot(t.Context()))
	must(t, v.api.pause(t.Context())) // as another client would
	select {
	case <-stops:
	case <-time.After(patience):
		t.Error("it was not told")
	}
	v.want(lifecycle.Paused)
	must(t, v.Resume(t.Context()))
}

// A guest that somebody else took away by the API has ended.
func TestAGuestThatIsTakenAway(t *testing.T) {
	onStubs(t, func(t *testing.T, r *rig) {
		v := r.boot("taken")
		must(t, v.api.shutdown(t.Context()))
		v.wantExit(types.ReasonKilled)
	})
}

// What a guest writes while no metald is there is on its console afterwards, once and in order.
func TestTheConsoleOverRestartsOfMetald(t *testing.T) {
	onStubs(t, func(t *testing.T, r *rig) {
		v := r.boot("counts", "metald.count=1")
		for n := range 3 {
			v.screen.WaitFor(t, guestPatience, guest.Second(2*n+1))
			v.Release()
			<-time.After(1100 * time.Millisecond) // the guest goes on meanwhile
			v = v.adopt(r.another())
		}
		v.screen.WaitFor(t, guestPatience, guest.Second(7))
		text := v.screen.String()
		from := 0
		for n := 1; n <= 7; n++ {
			at := strings.Index(text[from:], guest.Second(n))
			if at < 0 || strings.Count(text, guest.Second(n)+"\r\n") > 1 {
				t.Fatalf("%q is not there once and in order:\n%s", guest.Second(n), text)
			}
			from += at
		}
		if strings.Contains(text, "[metald:") {
			t.Errorf("something is said to be missing:\n%s", text)
		}
	})
}

// Cloud Hypervisor forgets disks that it could not open, and would boot without them the next time.
func TestARefusedBootIsNotTriedAgain(t *testing.T) {
	onStubs(t, func(t *testing.T, r *rig) {
		v := r.create("refused", r.spec())
		must(t, os.Remove(filepath.Join(v.home.root(), cage.Disk(0))))
		if err := v.Boot(t.Context()); err == nil {
			t.Fatal("booted without its disk")
		}
		if x := v.wantExit(types.ReasonCrashed); !strings.Contains(x.Detail, "it refused to boot: ") {
			t.Errorf("its end is told as %+v", x)
		}
		must(t, v.Destroy(t.Context()))
		v.wantGone()
	})
}

// A refusal that metald did not hear of, as it was killed meanwhile, is found at the next boot.
func TestABootWithoutItsDisksIsRefused(t *testing.T) {
	onStubs(t, func(t *testing.T, r *rig) {
		v := r.create("forgets", r.spec())
		must(t, os.Remove(filepath.Join(v.home.root(), cage.Disk(0))))
		if err := v.api.boot(t.Context()); err == nil {
			t.Fatal("booted without its disk")
		}
		v.Release()
		v = v.adopt(r.another())
		if err := v.Boot(t.Context()); types.KindOf(err) != types.KindUnavailable {
			t.Errorf("boot: %v", err)
		}
		v.wantExit(types.ReasonCrashed)
		must(t, v.Destroy(t.Context()))
	})
}
