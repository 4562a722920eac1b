package conformance

import (
	"bytes"
	"fmt"
	"os"
	"testing"

	"github.com/unkeyed/unkey/go/deploy/metald/internal/backend/types"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/guest"
)

func volumeSentences() []sentence {
	return []sentence{
		{"of VMs that ask for a volume at once, one gets it", nil, volumeRace},
		{"what a guest wrote to a volume outlives its VM", []Ability{Guest, GuestDisks}, volumeOutlives},
		{"a volume that was attached read-only is not written to, though its guest tries", []Ability{Guest, GuestDisks}, readOnlyVolume},
	}
}

func volumeRace(t *testing.T, s *site) {
	volume := s.volume("v")
	asked := make([]<-chan error, s.many(2, 8))
	for i := range asked {
		asked[i] = async(func() error {
			_, err := s.Create(s.ctx(), types.VMID(fmt.Sprintf("vm%d", i)), with(s.spec(), volume))
			return err
		})
	}
	won := 0
	for _, a := range asked {
		if err := s.wait(a, "create"); err == nil {
			won++
		} else {
			s.wantKind(err, types.KindPrecondition, volumeField)
		}
	}
	if all := s.all(); won != 1 || len(all) != 1 {
		t.Errorf("%d of %d got the volume, and there are %d VMs", won, len(asked), len(all))
	}
}

// onSecond makes a guest write n bytes to its second disk, and then look whether it can.
func onSecond(n int) []string {
	return []string{fmt.Sprintf("%s=%d", guest.ArgWrite, n), guest.ArgWriteTo + "=/dev/vdb"}
}

func volumeOutlives(t *testing.T, s *site) {
	volume := s.volume("v")
	volume.ID = "data"
	s.create("a", with(s.spec(onSecond(64<<10)...), volume))
	s.boot("a")
	s.hears("a", guest.Wrote(64<<10, "/dev/vdb"))
	if err := s.Delete(s.ctx(), "a", true); err != nil {
		t.Fatal(err)
	}
	content, err := os.ReadFile(volume.Path)
	if err != nil {
		t.Fatal(err)
	}
	if len(bytes.Trim(content, "\x00")) == 0 {
		t.Error("nothing of what the guest wrote is on the volume")
	}
}

func readOnlyVolume(t *testing.T, s *site) {
	volume := s.volume("v")
	before := s.hash(volume.Path)
	s.create("a", with(s.spec(onSecond(64<<10)...), readOnly(volume)))
	s.boot("a")
	s.hears("a", guest.Prefix+"write: ")
	if err := s.Delete(s.ctx(), "a", true); err != nil {
		t.Fatal(err)
	}
	if s.hash(volume.Path) != before {
		t.Error("a volume that was attached read-only has changed")
	}
}
