package firecracker

import (
	"reflect"
	"syscall"
	"testing"
	"time"

	"github.com/unkeyed/unkey/go/deploy/metald/internal/backend/backendtest"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/backend/types"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/guest"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/vmmprocess"
)

// used is what the VM used in all, which stays the same from its end on.
func (v *testVM) used() types.Usage {
	v.t.Helper()
	u, err := v.Usage(v.t.Context())
	must(v.t, err)
	must(v.t, v.Destroy(v.t.Context()))
	again, err := v.Usage(v.t.Context())
	must(v.t, err)
	if !reflect.DeepEqual(u, again) {
		v.t.Errorf("usage was %+v and became %+v", u, again)
	}
	if u.MemoryBytes != nil || u.CPUTime == nil || *u.CPUTime <= 0 {
		v.t.Errorf("usage in all: CPU time %v, memory %v", u.CPUTime, u.MemoryBytes)
	}
	return u
}

// Firecracker says at an end in good order, and before one by force, what its disks were used for.
func TestWhatAGuestWroteToTheEnd(t *testing.T) {
	onStubs(t, func(t *testing.T, r *rig) {
		const bytes = 4<<20 + 17
		for name, end := range map[string]func(*testVM){
			"reboot": func(v *testVM) { v.wantExit(types.ReasonGuestReset) },
			"forced": func(v *testVM) {
				v.screen.WaitFor(t, guestPatience, guest.Prefix+"wrote")
				must(t, v.Destroy(t.Context()))
			},
		} {
			args := []string{"metald.write=4194321"}
			if name == "reboot" {
				args = append(args, "metald.exit=reboot")
			}
			v := r.running(name, args...)
			end(v)
			if d := v.used().Disks["root"]; d.WriteBytes != bytes {
				t.Errorf("%s: the guest wrote %d bytes, and the disk has %+v", name, bytes, d)
			}
		}
	})
}

// Of a Firecracker that was killed nothing is known after its last line, and what was lost before stays lost.
func TestWhatIsNotKnownOfTheDisks(t *testing.T) {
	onStubs(t, func(t *testing.T, r *rig) {
		killed := r.boot("killed", "metald.write=4096")
		eventually(t, "it is counted", func() bool {
			u, err := killed.Usage(t.Context())
			must(t, err)
			return u.Disks["root"].WriteBytes == 4096
		})
		must(t, syscall.Kill(killed.Handle().Process.PID, syscall.SIGKILL))
		killed.wantExit(types.ReasonKilled)
		if u := killed.used(); u.Disks != nil {
			t.Errorf("the disks are %+v", u.Disks)
		}
		lost := r.boot("lost")
		lost.meter.turn <- struct{}{}
		must(t, lost.meter.collector.Missed())
		<-lost.meter.turn
		must(t, lost.Destroy(t.Context()))
		if u := lost.used(); u.Disks != nil {
			t.Errorf("after a line was lost the disks are %+v", u.Disks)
		}
	})
}

// The cgroup counts what the VMM did after its clock had been read, too; the clock what the start gate did before it joined,
// which is its lead.
func TestTheLargerOfClockAndCgroupIsWhatAVMUsed(t *testing.T) {
	r := onStub(t, true)
	v := r.running("burns", "metald.burn=forever")
	var seen time.Duration
	for range 50 {
		u, err := v.Usage(t.Context())
		must(t, err)
		seen = max(seen, *u.CPUTime)
	}
	must(t, syscall.Kill(v.Handle().Process.PID, syscall.SIGKILL))
	v.wantExit(types.ReasonKilled)
	clock, known := v.process.FinalCPU()
	g := v.home.private.Jail
	counted, grouped := r.backend.cage.CPU(g.Cgroup, g.ID)
	u := v.used()
	if !known || !grouped || clock < seen || *u.CPUTime != max(clock, counted+v.home.private.Lead) {
		t.Errorf("it used %s; seen %s, clock %s (%v), cgroup %s (%v)", *u.CPUTime, seen, clock, known, counted, grouped)
	}
}

// Of a VMM that somebody else reaped the cgroup knows what it used, with what its clock was ahead of it when it
// began.
func TestTheCgroupKnowsWhatAnOrphanUsed(t *testing.T) {
	r := onStub(t, true)
	v := r.running("orphan", "metald.burn=forever")
	pid := v.Handle().Process.PID
	v.Release()
	var seen time.Duration
	for deadline := time.Now().Add(200 * time.Millisecond); time.Now().Before(deadline); {
		now, err := vmmprocess.CPUTime(pid)
		must(t, err)
		seen = now
	}
	must(t, syscall.Kill(pid, syscall.SIGKILL))
	_, err := syscall.Wait4(pid, nil, 0, nil)
	must(t, err)
	if u := v.home.finalCPU(nil); u == nil || *u < seen || *u > seen+time.Second {
		t.Errorf("it used %v, and %s were seen", u, seen)
	}
	last := backendtest.Reap(t, r.another(), v.Handle())
	if last.CPUTime == nil || *last.CPUTime < seen {
		t.Errorf("it used %v, and %s were seen", last.CPUTime, seen)
	}
	if last := backendtest.Reap(t, r.another(), v.Handle()); last.CPUTime != nil {
		t.Errorf("reaped twice it used %s", *last.CPUTime)
	}
}
