package qemu

import (
	"os"
	"os/exec"
	"testing"

	"github.com/unkeyed/unkey/go/deploy/metald/internal/backend/backendtest"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/backend/tally"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/backend/types"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/guest"
)

const tapField = "config.network[0].tap_device"

func TestTapsThatAreRefused(t *testing.T) {
	for name, kind := range map[string]types.Kind{
		"": types.KindInvalid, "../../class/net/lo": types.KindInvalid, "..": types.KindInvalid, "a b": types.KindInvalid,
		"tap%d": types.KindInvalid, "far-too-long-a-name": types.KindInvalid,
		"tapmissing0": types.KindPrecondition, "lo": types.KindPrecondition,
	} {
		_, err := openTap(tapField, name)
		wantKind(t, err, kind, tapField, "")
	}
	if _, err := os.Stat("/sys/class/net/tapmissing0"); err == nil {
		t.Error("a tap was made")
	}
}

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
	must(t, exec.Command(ip, "link", "set", name, "up").Run())
}

func TestTapOfAVM(t *testing.T) {
	everywhere(t, func(t *testing.T, r *rig) {
		const tap = "metaldtest0"
		makeTap(t, tap)
		spec := r.spec()
		spec.Networks = []types.Network{{ID: "lan", Tap: tap}}
		v := r.create("net", spec)
		req := r.request("net2", spec)
		wantKind(t, r.refuse(t.Context(), req), types.KindPrecondition, tapField, "in use")
		must(t, v.Boot(t.Context()))
		v.screen.WaitFor(t, patience, guest.Marker)
		u, err := v.Usage(t.Context())
		must(t, err)
		if n, ok := u.Networks["lan"]; !ok || n.SentBytes < 0 {
			t.Errorf("usage %+v", u.Networks)
		}
		must(t, v.Destroy(t.Context()))
		if n, known := v.used().Networks["lan"]; !known || n.SentBytes < u.Networks["lan"].SentBytes {
			t.Errorf("in all %+v, and %+v was seen", n, u.Networks["lan"])
		}
		if last := backendtest.Reap(t, r.backend, v.Handle()); len(last.Networks) != 1 {
			t.Errorf("to who reaps it the networks are %+v", last.Networks)
		}
		eventually(t, "the tap is free", func() bool {
			f, err := openTap(tapField, tap)
			if err == nil {
				f.Close()
			}
			return err == nil
		})
		if _, err := os.Stat("/sys/class/net/" + tap); err != nil {
			t.Errorf("the tap went with the VM: %v", err)
		}
	})
}

func TestNetworkUsageIsTheGuestsAndOfThisIncarnation(t *testing.T) {
	const tap = "metaldtest1"
	makeTap(t, tap)
	taps := tally.Begin([]types.Network{{ID: "lan", Tap: tap}, {ID: "unknown", Tap: "nosuchtap"}})
	u := taps.Used()
	if len(u) != 1 || u["lan"].SentPackets < 0 || u["lan"].SentPackets > 1000 {
		t.Errorf("usage %+v", u)
	}
	now := taps["lan"]
	now.ReceivedBytes += 1 << 40 // as if the tap had been made anew
	taps["lan"] = now
	if u := taps.Used(); u != nil {
		t.Errorf("usage %+v", u)
	}
}
