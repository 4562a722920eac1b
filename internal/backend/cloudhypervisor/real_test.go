package cloudhypervisor

import (
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/unkeyed/unkey/go/deploy/metald/internal/backend/types"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/guest"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/vm/lifecycle"
)

// eachReal runs a test on Cloud Hypervisor itself, in a cage and without.
func eachReal(t *testing.T, rigOf func(testing.TB, bool) *rig, test func(*testing.T, *rig)) {
	for _, k := range kinds {
		if k.real {
			t.Run(k.name, func(t *testing.T) { test(t, rigOf(t, k.caged)) })
		}
	}
}

// On a host whose KVM runs no guests Cloud Hypervisor's API can be tested all the same, up to the boot.
func TestRealControlPlane(t *testing.T) {
	eachReal(t, onControlPlane, func(t *testing.T, r *rig) {
		v := r.create("control", r.spec())
		v.want(lifecycle.Created)
		if v.Handle().VMMVersion != v.version.String() || v.version.before(pinned) {
			t.Errorf("it is of version %s, and calls itself %s", v.Handle().VMMVersion, v.version)
		}
		v.Release()
		again := v.adopt(r.another())
		again.want(lifecycle.Created)
		if err := again.Pause(t.Context()); types.KindOf(err) != types.KindUnavailable {
			t.Errorf("pause before the boot: %v", err)
		}
		again.want(lifecycle.Created)
		must(t, again.Destroy(t.Context()))
		again.wantExit(types.ReasonForced)
	})
}

// A tap of the host is open in a VMM that has a network namespace of its own.
func TestRealNetwork(t *testing.T) {
	eachReal(t, onControlPlane, func(t *testing.T, r *rig) {
		const name = "metaldtest2"
		makeTap(t, name)
		spec := r.spec()
		spec.Networks = []types.Network{{ID: "lan", Tap: name}}
		v := r.create("net", spec)
		v.want(lifecycle.Created)
		_, err := r.backend.Create(t.Context(), r.request("second", spec))
		wantKind(t, err, types.KindPrecondition, tapField, "in use")
		must(t, v.Destroy(t.Context()))
		must(t, r.create("again", spec).Destroy(t.Context()))
	})
}

// TestRealGuest takes a real guest through what its counters and its end have to be true about: bytes that it wrote to a
// disk of its own, counted once over pauses and restarts of metald.
func TestRealGuest(t *testing.T) {
	eachReal(t, onReal, func(t *testing.T, r *rig) {
		const bytes = 3 << 20
		spec := r.spec(fmt.Sprintf("%s=%d", guest.ArgWrite, bytes), guest.ArgWriteTo+"=/dev/vdb")
		spec.Disks = append(spec.Disks, types.Disk{ID: "data"})
		spec.Disks[0].Root = true
		req := r.request("real", spec)
		must(t, os.WriteFile(req.Disks[1], make([]byte, 2*bytes), 0o600))
		v := r.createFrom(req)
		must(t, v.Boot(t.Context()))
		v.screen.WaitFor(t, guestPatience, guest.Marker)
		v.screen.WaitFor(t, guestPatience, guest.Wrote(bytes, "/dev/vdb"))
		counted := func(m *testVM) int64 { u, err := m.Usage(t.Context()); must(t, err); return u.Disks["data"].WriteBytes }
		eventually(t, "what the guest wrote is counted", func() bool { return counted(v) == bytes })

		must(t, v.Pause(t.Context()))
		v.want(lifecycle.Paused)
		v.Release()
		v = v.adopt(r.another())
		v.want(lifecycle.Paused)
		must(t, v.Resume(t.Context()))
		if got := counted(v); got != bytes {
			t.Errorf("%d bytes are counted after a restart of metald, and %d were written", got, bytes)
		}
		if u, err := v.Usage(t.Context()); err != nil || *u.CPUTime <= 0 || *u.MemoryBytes < 16<<20 {
			t.Errorf("usage %+v, %v", u, err)
		}
		eventually(t, "the guest has seen the button", func() bool {
			must(t, v.Shutdown(t.Context()))
			return strings.Contains(v.screen.String(), guest.PoweringOff) || v.died()
		})
		v.wantExit(types.ReasonGuestShutdown)
		onDisk, err := os.ReadFile(req.Disks[1])
		must(t, err)
		if strings.Trim(string(onDisk[:bytes]), "\x00") == "" {
			t.Error("nothing of it is on the disk")
		}
		must(t, v.Destroy(t.Context()))
		v.wantGone()
	})
}

// A guest that restarts by itself is ended: Cloud Hypervisor alone would go on with another one.
func TestRealReset(t *testing.T) {
	eachReal(t, onReal, func(t *testing.T, r *rig) {
		r.running("resets", "metald.exit="+guest.ExitReboot).wantExit(types.ReasonGuestReset)
		r.running("panics", "metald.exit="+guest.ExitPanic).wantExit(types.ReasonGuestPanic)
		r.running("ends", "metald.exit="+guest.ExitPowerOff).wantExit(types.ReasonGuestShutdown)
	})
}

// TestRealCanary is the "yes" of the trial of KVM.
func TestRealCanary(t *testing.T) {
	r := onReal(t, true)
	r.config.CanaryKernel, r.config.StateDir, r.config.CanaryTimeout = r.kernel, r.dir, 3*patience
	began := time.Now()
	must(t, r.another().Check(t.Context()))
	t.Logf("the trial took %s", time.Since(began))
	must(t, r.another().Check(t.Context())) // from what the first one kept
}

// TestRealKVMThatHangs is its "no": on a host whose /dev/kvm opens and whose guests stand still.
func TestRealKVMThatHangs(t *testing.T) {
	if os.Getenv("METALD_TEST_KVM") == "1" {
		t.Skip("KVM is sound in the lab")
	}
	r := onControlPlane(t, true)
	if r.asRoot {
		t.Skip("the users of VMs cannot use KVM here")
	}
	r.config.CanaryKernel, r.config.StateDir, r.config.CanaryTimeout = r.kernel, r.dir, 2*time.Second
	err := r.another().Check(t.Context())
	if err == nil {
		t.Skip("KVM runs guests on this host")
	}
	wantKind(t, err, types.KindPrecondition, "", "KVM cannot be used on this host")
}
