package qemu

import (
	"encoding/json"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/unkeyed/unkey/go/deploy/metald/internal/backend/types"
)

// onLab returns a rig that decides about KVM for itself; it skips the test outside of the lab.
func onLab(t *testing.T, accel string) *rig {
	t.Helper()
	if !inLab() {
		t.Skip("this needs a host whose KVM is sound and nobody else's; `make lab` runs it in one")
	}
	r := onQEMU(t)
	r.config.Accel, r.config.StateDir = accel, r.dir
	r.backend = r.another()
	return r
}

// TestKVMIsChosenWhereItWorks is the "yes" of the trial, and that it is true of the guest that follows.
func TestKVMIsChosenWhereItWorks(t *testing.T) {
	r := onLab(t, accelAuto)
	must(t, r.backend.Prepare(t.Context()))
	if v := r.backend.accel.verdict; v == nil || !v.Usable {
		t.Fatalf("verdict %+v", v)
	}
	began := time.Now()
	v := r.boot("guest")
	t.Logf("%+v; the guest's user space was up in %s", *r.backend.accel.verdict, time.Since(began))
	reply, err := v.control.do(t.Context(), "query-kvm", nil)
	must(t, err)
	var kvm struct{ Enabled, Present bool }
	must(t, json.Unmarshal(reply, &kvm))
	if !kvm.Enabled {
		t.Errorf("query-kvm says %s", reply)
	}
	v.powerOff()
}

// TestKVMThatIsNotThere takes the driver away from the host. Guests run by TCG, and the mode kvm says what is missing.
func TestKVMThatIsNotThere(t *testing.T) {
	r := onLab(t, accelAuto)
	modprobe(t, "-r", "kvm_amd")
	t.Cleanup(func() { modprobe(t, "kvm_amd") })
	if _, err := os.Stat("/dev/kvm"); !os.IsNotExist(err) {
		t.Fatalf("/dev/kvm is still there: %v", err)
	}
	r.backend = r.another()
	v := r.running("guest")
	if p, err := checkHandle(v.Handle()); err != nil || p.Accel != accelTCG {
		t.Errorf("the guest runs on %+v, %v", p, err)
	}
	r.config.Accel = accelKVM
	wantKind(t, r.another().Prepare(t.Context()), types.KindPrecondition, "", "/dev/kvm cannot be opened")
}

func modprobe(t *testing.T, args ...string) {
	t.Helper()
	if out, err := exec.Command("modprobe", args...).CombinedOutput(); err != nil {
		t.Fatalf("modprobe %s: %v: %s", strings.Join(args, " "), err, out)
	}
}
