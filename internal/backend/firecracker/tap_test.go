package firecracker

import (
	"os/exec"
	"path/filepath"
	"testing"

	"os"

	"github.com/unkeyed/unkey/go/deploy/metald/internal/backend/backendtest"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/backend/stubvmm/firecracker"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/backend/types"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/host/tap"
)

const tapField = "config.network[0].tap_device"

// makeTap makes a persistent tap, and skips the test where that is not possible.
func makeTap(t *testing.T, name string) {
	t.Helper()
	ip, err := exec.LookPath("ip")
	if err != nil {
		t.Skip("no ip command to make a tap with")
	}
	if out, err := exec.Command(ip, "tuntap", "add", name, "mode", "tap").CombinedOutput(); err != nil {
		t.Skipf("no tap can be made: %v: %s", err, out)
	}
	t.Cleanup(func() { must(t, exec.Command(ip, "link", "del", name).Run()) })
}

func wantTapOf(t *testing.T, name string, want uint32) {
	t.Helper()
	if got, err := tap.Owner(name); err != nil || got != want {
		t.Errorf("the tap is uid %d's (%v), want %d's", got, err, want)
	}
}

// A tap is the VM's user's while the VM has it, and nobody else's VM gets stuck over it.
func TestATapIsLent(t *testing.T) {
	r := onStub(t, true) // the jailer makes a /dev/net/tun that is the VM's; the host's may be root's
	r.config.Jail.NetNamespace = false
	r.tapped()
	const name = "metaldtest1"
	makeTap(t, name)
	spec := r.spec()
	spec.Networks = []types.Network{{ID: "lan", Tap: name}}
	v := r.create("has", spec)
	wantTapOf(t, name, someUID)

	req := r.request("wants", spec)
	req.UID, req.GID = someUID+1, someUID+1
	committed := types.Handle{}
	req.Commit = func(h types.Handle) error { committed = h; return nil }
	_, err := r.backend.Create(t.Context(), req)
	wantKind(t, err, types.KindPrecondition, tapField, "in use")
	backendtest.Reap(t, r.backend, committed) // as the manager does
	wantTapOf(t, name, someUID)

	must(t, v.Destroy(t.Context()))
	wantTapOf(t, name, 0)
	if u := v.used(); len(u.Networks) != 1 {
		t.Errorf("in all the networks are %+v", u.Networks)
	}
	if last := backendtest.Reap(t, r.backend, v.Handle()); len(last.Networks) != 1 {
		t.Errorf("to who reaps it the networks are %+v", last.Networks)
	}
	must(t, r.create("again", spec).Destroy(t.Context()))
}

// tapped has the stand-in open its taps.
func (r *rig) tapped() {
	r.t.Helper()
	own := filepath.Join(r.dir, "firecracker")
	b, err := os.ReadFile(r.config.Binary)
	must(r.t, err)
	must(r.t, os.WriteFile(own, b, 0o755))
	backendtest.Write(r.t, own+firecracker.KnobsSuffix, []byte("stub.tap=1\n"))
	r.config.Binary = own
	r.backend = r.another()
}
