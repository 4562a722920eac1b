package qemu

import (
	"context"
	"reflect"
	"syscall"
	"testing"
	"time"

	"github.com/unkeyed/unkey/go/deploy/metald/internal/backend/types"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/guest"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/vm/lifecycle"
)

const wrote = 4 << 20 // bytes that the guests of these tests write, and sync

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

// wantWrites sees that all that the guest wrote is in u. The stand-in counts nothing else.
func (r *rig) wantWrites(t *testing.T, u types.Usage) {
	t.Helper()
	d, known := u.Disks["root"]
	if !known || d.WriteBytes < wrote || d.WriteOps == 0 || d.ReadBytes == 0 || !r.real && d.WriteBytes != wrote {
		t.Errorf("%d bytes were written, and the disks are %+v", wrote, u.Disks)
	}
}

func TestWhatAGuestUsedUntilItEnded(t *testing.T) {
	for exit, reason := range map[string]string{
		guest.ExitPowerOff: types.ReasonGuestShutdown, guest.ExitReboot: types.ReasonGuestReset, guest.ExitPanic: types.ReasonGuestPanic,
	} {
		t.Run(exit, func(t *testing.T) {
			everywhere(t, func(t *testing.T, r *rig) {
				v := r.create("ends", r.spec("metald.write=4194304", "metald.exit="+exit))
				must(t, v.Boot(t.Context()))
				var seen types.Usage
				for !v.endsWithin(10 * time.Millisecond) {
					if u, err := v.Usage(t.Context()); err == nil {
						seen = u
					}
				}
				v.wantExit(reason, patience)
				u := v.used()
				r.wantWrites(t, u)
				if seen.CPUTime != nil && *seen.CPUTime > *u.CPUTime || seen.Disks["root"].WriteBytes > u.Disks["root"].WriteBytes {
					t.Errorf("%+v was seen, and %+v is said to be all", seen, u)
				}
			})
		})
	}
}

func TestWhatAGuestUsedUntilItWasEndedByForce(t *testing.T) {
	for name, readOnly := range map[string]bool{"writes": false, "reads": true} {
		t.Run(name, func(t *testing.T) {
			everywhere(t, func(t *testing.T, r *rig) {
				args := []string{"metald.write=4194304"}
				if readOnly {
					args = nil
				}
				spec := r.spec(args...)
				spec.Disks[0].ReadOnly = readOnly
				v := r.create("forced", spec)
				must(t, v.Boot(t.Context()))
				v.screen.WaitFor(t, patience, guest.Marker)
				if !readOnly {
					v.screen.WaitFor(t, patience, guest.Prefix+"wrote")
				}
				bounded(t, quitTimeout, func() { must(t, v.Destroy(t.Context())) })
				v.wantExit(types.ReasonForced, 0)
				u := v.used()
				if !readOnly {
					r.wantWrites(t, u)
				} else if u.Disks["root"].ReadBytes == 0 {
					t.Errorf("a guest that ran has disks of %+v", u.Disks)
				}
			})
		})
	}
}

// Whoever else ends a QEMU takes its disks' counters along. What was read before is not all, so it is not said.
func TestWhatIsNotKnownOfAnEnd(t *testing.T) {
	for _, signal := range []syscall.Signal{syscall.SIGKILL, syscall.SIGTERM} {
		everywhere(t, func(t *testing.T, r *rig) {
			v := r.running("killed")
			if u, err := v.Usage(t.Context()); err != nil || u.Disks == nil {
				t.Errorf("usage %+v, %v", u, err)
			}
			must(t, syscall.Kill(v.Handle().Process.PID, signal))
			v.wantExit(types.ReasonKilled, patience)
			if u := v.used(); u.Disks != nil {
				t.Errorf("after %s the disks are %+v", signal, u.Disks)
			}
		})
	}
}

func TestAGuestThatNeverRanUsedNoDisk(t *testing.T) {
	everywhere(t, func(t *testing.T, r *rig) {
		v := r.create("created", r.spec())
		if u, err := v.Usage(t.Context()); err != nil || u.Disks["root"] != (types.DiskUsage{}) {
			t.Errorf("usage %+v, %v", u, err)
		}
		must(t, syscall.Kill(v.Handle().Process.PID, syscall.SIGKILL))
		v.wantExit(types.ReasonKilled, patience)
		if d, known := v.used().Disks["root"]; !known || d != (types.DiskUsage{}) {
			t.Errorf("disk usage %+v (known: %v)", d, known)
		}
	})
}

func TestAGuestThatEndedWhileNoMetaldWasThere(t *testing.T) {
	everywhere(t, func(t *testing.T, r *rig) {
		v := r.create("away", r.spec("metald.write=4194304", "metald.exit=poweroff", "metald.after=300ms"))
		must(t, v.Boot(t.Context()))
		v.screen.WaitFor(t, patience, guest.Prefix+"wrote")
		v.Release()
		asks := stats{}
		defer asks.close()
		eventually(t, "QEMU waits and its guest is off", func() bool {
			status, err := queryStatus(t.Context(), asks.doer(v.req.RunDir))
			return err == nil && status == "shutdown"
		})
		waits, err := asks.disks(t.Context(), v.req.RunDir, v.req.Spec.Disks)
		must(t, err)
		asks.close()
		m, err := r.another().Adopt(t.Context(), types.AdoptRequest{Handle: v.Handle(), Spec: v.req.Spec, Console: v.screen})
		must(t, err)
		adopted := &testVM{machine: m.(*machine), t: t, screen: v.screen, req: v.req}
		t.Cleanup(func() { must(t, adopted.Destroy(context.Background())) })
		adopted.want(lifecycle.Shutdown)
		must(t, adopted.Destroy(t.Context())) // as the manager does
		adopted.wantExit(types.ReasonUnobserved, 0)
		u := adopted.used()
		r.wantWrites(t, u)
		if !reflect.DeepEqual(u.Disks, waits) {
			t.Errorf("the disks were at %+v when the guest had ended, and in the last reading at %+v", waits, u.Disks)
		}
		adopted.wantGone()
	})
}

// A QEMU whose monitor was lost no longer says that its guest has ended.
func TestAGuestThatEndsUnheard(t *testing.T) {
	everywhere(t, func(t *testing.T, r *rig) {
		v := r.create("unheard", r.spec("metald.exit=poweroff", "metald.after=300ms"))
		must(t, v.Boot(t.Context()))
		v.screen.WaitFor(t, patience, guest.Marker)
		v.control.close()
		if !v.endsWithin(patience) {
			t.Fatal("it waits for ever")
		}
		if u := v.used(); u.Disks != nil {
			t.Errorf("the disks are %+v", u.Disks)
		}
	})
}
