package cloudhypervisor

import (
	"os/exec"
	"testing"

	"github.com/unkeyed/unkey/go/deploy/metald/internal/backend/backendtest"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/backend/types"
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

// A VMM has its tap as an open file, also where its network namespace is empty; nobody else can have it meanwhile.
func TestATapIsHandedOver(t *testing.T) {
	onStubs(t, func(t *testing.T, r *rig) {
		const name = "metaldtest3"
		makeTap(t, name)
		spec := r.spec()
		spec.Networks = []types.Network{{ID: "lan", Tap: name}}
		v := r.create("has", spec)
		must(t, v.Boot(t.Context()))
		_, err := r.backend.Create(t.Context(), r.request("wants", spec))
		wantKind(t, err, types.KindPrecondition, tapField, "in use")
		eventually(t, "its traffic is counted", func() bool {
			u, err := v.Usage(t.Context())
			must(t, err)
			_, ok := u.Networks["lan"]
			return ok
		})
		must(t, v.Destroy(t.Context()))
		if u := v.used(); len(u.Networks) != 1 {
			t.Errorf("in all the networks are %+v", u.Networks)
		}
		if last := backendtest.Reap(t, r.backend, v.Handle()); len(last.Networks) != 1 {
			t.Errorf("to who reaps it the networks are %+v", last.Networks)
		}
		must(t, r.create("again", spec).Destroy(t.Context()))
	})
}

func TestTapsThatAreNone(t *testing.T) {
	r := onStub(t, true)
	for tap, kind := range map[string]types.Kind{"no/name": types.KindInvalid, "metaldnone": types.KindPrecondition, "": types.KindInvalid} {
		spec := r.spec()
		spec.Networks = []types.Network{{ID: "lan", Tap: tap}}
		err := r.refuse(t.Context(), r.request("none", spec))
		wantKind(t, err, kind, tapField, "")
	}
}
