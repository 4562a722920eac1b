package firecracker

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
	"github.com/unkeyed/unkey/go/deploy/metald/internal/backend/types"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/guest"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/vm/lifecycle"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/vmmprocess/jailer"
)

// knobs gives the stand-in of this rig alone what makes it slow or wrong.
func (r *rig) knobs(words ...string) {
	r.t.Helper()
	dir := filepath.Join(r.dir, "bin")
	must(r.t, os.Mkdir(dir, 0o755))
	binary := filepath.Join(dir, "firecracker")
	backendtest.Copy(r.t, r.config.Binary, binary)
	must(r.t, os.Chmod(binary, 0o755))
	backendtest.Write(r.t, binary+".knobs", []byte(strings.Join(words, "\n")))
	r.config.Binary = binary
	r.backend = r.another()
}

func TestEndsOfAGuest(t *testing.T) {
	for _, c := range []struct{ how, reason, detail string }{
		{guest.ExitReboot, types.ReasonGuestReset, ""},
		{guest.ExitPanic, types.ReasonGuestPanic, "Kernel panic - not syncing: sysrq triggered crash"},
		{guest.ExitPowerOff, types.ReasonGuestShutdown, ""},
	} {
		t.Run(c.how, func(t *testing.T) {
			onStubs(t, func(t *testing.T, r *rig) {
				v := r.running("ends", "metald.exit="+c.how)
				if x := v.wantExit(c.reason); x.Detail != c.detail {
					t.Errorf("exit %+v", x)
				}
				must(t, v.Destroy(t.Context()))
				v.wantGone()
			})
		})
	}
}

// A guest that says that it is off and talks on is not off.
func TestWordsAloneDoNotEndAVM(t *testing.T) {
	r := onStub(t, false)
	v := r.running("lies", "metald.flood=1")
	v.screen.WaitFor(t, guestPatience, guest.Flood)
	root, err := v.home.root()
	must(t, err)
	console, err := os.OpenFile(filepath.Join(root, jailer.Console), os.O_WRONLY, 0)
	must(t, err)
	defer console.Close()
	_, err = console.WriteString("reboot: System halted\r\n")
	must(t, err)
	v.screen.WaitFor(t, guestPatience, "reboot: System halted")
	select { // what must not happen has to be given its time
	case <-v.Exited():
		t.Errorf("it was ended: %+v", v.Exit())
	case <-time.After(3 * stillFor):
	}
	v.want(lifecycle.Running)
}

func TestCtrlAltDel(t *testing.T) {
	onStubs(t, func(t *testing.T, r *rig) {
		v := r.boot("hears")
		pressUntil(v, guest.CtrlAltDel)
		v.wantExit(types.ReasonGuestShutdown)

		deaf := r.boot("deaf", "metald.power=ignore")
		pressUntil(deaf, guest.CtrlAltDel+guest.Ignored)
		deaf.want(lifecycle.Running)
	})
}

// pressUntil presses again: the guest may not listen yet.
func pressUntil(v *testVM, said string) {
	v.t.Helper()
	eventually(v.t, "the guest has seen the keys", func() bool {
		if err := v.Shutdown(v.t.Context()); err != nil && !v.died() && types.KindOf(err) != types.KindUnavailable {
			v.t.Fatal(err)
		}
		return strings.Contains(v.screen.String(), said)
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

func TestSignals(t *testing.T) {
	onStubs(t, func(t *testing.T, r *rig) {
		v := r.create("hup", r.spec())
		must(t, syscall.Kill(v.Handle().Process.PID, syscall.SIGHUP)) // which Firecracker catches
		if x := v.wantExit(types.ReasonCrashed); x.Code != 156 || x.Detail == "" {
			t.Errorf("exit %+v", x)
		}
		if r.jailed() {
			return // the kernel keeps signals that are not caught from the first process of a PID namespace
		}
		v = r.create("term", r.spec())
		must(t, syscall.Kill(v.Handle().Process.PID, syscall.SIGTERM))
		if x := v.wantExit(types.ReasonKilled); x.Signal != int(syscall.SIGTERM) {
			t.Errorf("exit %+v", x)
		}
	})
}

func TestAVMMThatCrashes(t *testing.T) {
	onStubs(t, func(t *testing.T, r *rig) {
		v := r.create("crash", r.spec("stub.crash=1"))
		if err := v.Boot(t.Context()); err != nil && types.KindOf(err) != types.KindUnavailable {
			t.Errorf("boot: %v", err)
		}
		if x := v.wantExit(types.ReasonCrashed); x.Signal == 0 {
			t.Errorf("exit %+v", x)
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
		had := v.screen.String()
		<-time.After(1200 * time.Millisecond) // what must not happen has to be given its time
		if now := v.screen.String(); strings.Count(now, "second") > strings.Count(had, "second")+1 {
			t.Errorf("a paused guest wrote %q", strings.TrimPrefix(now, had))
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
		<-time.After(2 * flushEvery) // a flush is under way

		soon, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
		defer cancel()
		bounded(t, time.Second, func() {
			if _, err := v.State(soon); types.KindOf(err) != types.KindUnavailable {
				t.Errorf("state: %v", err)
			}
		})
		bounded(t, time.Second, func() {
			if u, err := v.Usage(t.Context()); err != nil || u.CPUTime == nil || u.MemoryBytes == nil || u.Disks["root"].WriteBytes != 4096 {
				t.Errorf("usage %+v, %v", u, err)
			}
		})
		bounded(t, time.Second, v.Release)

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
			t.Errorf("before the first line of the metrics: %+v, %v", u, err)
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
		if got := v.machine.diskUsage()["root"].WriteBytes; got != bytes {
			t.Errorf("at the end %d bytes are counted, and %d were written", got, bytes)
		}
	})
}

// What a guest wrote just before it was paused, and what it wrote while no metald was there, is counted.
func TestUsageOfWhatCameBetweenFlushes(t *testing.T) {
	onStubs(t, func(t *testing.T, r *rig) {
		for i := range 10 {
			const bytes = 1 << 20
			v := r.running(fmt.Sprintf("brief%d", i), fmt.Sprintf("metald.write=%d", bytes))
			v.screen.WaitFor(t, guestPatience, guest.Wrote(bytes, guest.WriteFile))
			if i%2 == 0 {
				must(t, v.Pause(t.Context()))
			} else {
				v.Release()
				v = v.adopt(r.another())
			}
			must(t, v.Destroy(t.Context()))
			if got := v.machine.diskUsage()["root"].WriteBytes; got != bytes {
				t.Errorf("at the end %d bytes are counted, and %d were written", got, bytes)
			}
			if totals := v.machine.meter.collector.Totals(); len(totals.Gaps) != 0 || !totals.Ended {
				t.Errorf("the totals are %+v", totals)
			}
		}
	})
}

// lines is how many lines of metrics were read.
func (v *testVM) lines() uint64 { return v.machine.meter.collector.Totals().Lines }

func TestMetricsAreWrittenWhileTheGuestRuns(t *testing.T) {
	r := onStub(t, false)
	v := r.boot("paced")
	from, began := v.lines(), time.Now()
	eventually(t, "ten more lines came", func() bool { return v.lines() >= from+10 })
	if took := time.Since(began); took < 8*flushEvery {
		t.Errorf("ten lines took %s", took)
	}
	must(t, v.Pause(t.Context()))
	var still uint64
	eventually(t, "the lines end", func() bool {
		had := still
		still = v.lines()
		<-time.After(2 * flushEvery)
		return had == still
	})
	must(t, v.Resume(t.Context()))
	eventually(t, "lines come again", func() bool { return v.lines() > still+2 })
}

// A VMM that takes 300 ms for each call is asked as often as it answers, and still does what it is told.
func TestASlowVMMHasNoQueueOfFlushes(t *testing.T) {
	r := onStub(t, false)
	v := r.boot("slow", "stub.slow=300ms")
	<-time.After(5 * flushEvery)
	bounded(t, 2500*time.Millisecond, func() { must(t, v.Pause(t.Context())) }) // behind one flush at most, and seen
	bounded(t, 4*time.Second, func() { must(t, v.Destroy(t.Context())) })
}
