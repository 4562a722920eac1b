package firecracker

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

// On a host whose KVM runs no guests Firecracker's API can be tested all the same.
func TestRealControlPlane(t *testing.T) {
	onReal(t, onControlPlane, func(t *testing.T, r *rig) {
		v := r.create("control", r.spec())
		v.want(lifecycle.Created)
		must(t, v.Boot(t.Context()))
		v.want(lifecycle.Running)
		must(t, v.Pause(t.Context()))
		v.want(lifecycle.Paused)
		must(t, v.Resume(t.Context()))
		must(t, v.Shutdown(t.Context()))
		eventually(t, "there is a line of metrics", func() bool { return v.diskUsage() != nil })
		v.Release()
		again := v.adopt(r.another())
		again.want(lifecycle.Running)
		must(t, again.Destroy(t.Context()))
	})
}

// onReal runs a test on Firecracker itself, with and without its jailer.
func onReal(t *testing.T, rigOf func(testing.TB, bool) *rig, test func(*testing.T, *rig)) {
	for _, k := range kinds {
		if k.real {
			t.Run(k.name, func(t *testing.T) { test(t, rigOf(t, k.jailed)) })
		}
	}
}

// TestRealGuest takes a real guest through what its metrics and its end have to be true about: bytes that it wrote to a
// disk of its own, counted once over pauses and restarts of metald.
func TestRealGuest(t *testing.T) {
	onReal(t, onFirecracker, func(t *testing.T, r *rig) {
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
		counted := func(m *testVM) int64 { return m.diskUsage()["data"].WriteBytes }
		eventually(t, "what the guest wrote is counted", func() bool { return counted(v) == bytes })

		must(t, v.Pause(t.Context()))
		v.want(lifecycle.Paused)
		v.Release()
		v = v.adopt(r.another())
		v.want(lifecycle.Paused)
		must(t, v.Resume(t.Context()))
		from := v.meter.collector.Totals().Lines
		eventually(t, "metrics go on", func() bool { return v.meter.collector.Totals().Lines > from+5 })
		if got := counted(v); got != bytes {
			t.Errorf("%d bytes are counted after a restart of metald, and %d were written", got, bytes)
		}
		if u, err := v.Usage(t.Context()); err != nil || *u.CPUTime <= 0 || *u.MemoryBytes < 16<<20 {
			t.Errorf("usage %+v, %v", u, err)
		}
		must(t, v.Shutdown(t.Context()))
		v.wantExit(types.ReasonGuestShutdown)
		totals := v.meter.collector.Totals()
		if got := counted(v); got != bytes || len(totals.Gaps) != 0 || totals.Partial || !totals.Ended {
			t.Errorf("at the end %d bytes are counted, and %d were written; %+v", got, bytes, totals)
		}
		onDisk, err := os.ReadFile(req.Disks[1])
		must(t, err)
		if strings.Trim(string(onDisk[:bytes]), "\x00") == "" {
			t.Error("nothing of it is on the disk")
		}
		must(t, v.Destroy(t.Context()))
		v.wantGone()
	})
}

// TestRealCanary is the "yes" of the trial of KVM.
func TestRealCanary(t *testing.T) {
	r := onFirecracker(t, true)
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
	r.config.CanaryKernel, r.config.StateDir, r.config.CanaryTimeout = r.kernel, r.dir, 2*time.Second
	err := r.another().Check(t.Context())
	if err == nil {
		t.Skip("KVM runs guests on this host")
	}
	wantKind(t, err, types.KindPrecondition, "", "KVM cannot be used on this host")
}
