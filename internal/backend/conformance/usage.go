package conformance

import (
	"fmt"
	"testing"
	"time"

	"github.com/unkeyed/unkey/go/deploy/metald/internal/backend/types"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/guest"
)

func usageSentences() []sentence {
	return []sentence{
		{"usage never falls over a pause, a resume and a restart of metald", nil, usageNeverFalls},
		{"what is known of usage stays known, and what is not stays unknown", nil, usageKnown},
		{"what a new incarnation is metered by begins anew", []Ability{Guest, GuestDisks}, usageBeginsAnew},
	}
}

// read returns a reading that is newer than the one before.
func (s *site) read(id types.VMID) types.Usage {
	s.t.Helper()
	fresh := time.NewTimer(110 * time.Millisecond) // readings are kept for 100 ms
	defer fresh.Stop()
	<-fresh.C
	usage, err := s.Usage(s.ctx(), id)
	if err != nil {
		s.t.Fatal(err)
	}
	return usage
}

// life is a VM's over what must not touch what it is metered by; look is called after each step.
func (s *site) life(id types.VMID, look func(step string)) {
	s.t.Helper()
	look("boot")
	if _, err := s.Pause(s.ctx(), id); err != nil {
		s.t.Fatal(err)
	}
	look("pause")
	s.restart()
	look("restart while it was paused")
	if _, err := s.Resume(s.ctx(), id); err != nil {
		s.t.Fatal(err)
	}
	look("resume")
	s.restart()
	look("restart while it ran")
}

func usageNeverFalls(t *testing.T, s *site) {
	s.running("a")
	var last types.Usage
	s.life("a", func(step string) {
		now := s.read("a")
		if !now.At.After(last.At) {
			t.Errorf("after %s the reading is of %v, the one before of %v", step, now.At, last.At)
		}
		if last.CPUTime != nil && (now.CPUTime == nil || *now.CPUTime < *last.CPUTime) {
			t.Errorf("after %s the CPU time is %v, and was %s", step, now.CPUTime, *last.CPUTime)
		}
		for id, was := range last.Disks {
			if is := now.Disks[id]; is.ReadBytes < was.ReadBytes || is.WriteBytes < was.WriteBytes || is.ReadOps < was.ReadOps || is.WriteOps < was.WriteOps {
				t.Errorf("after %s disk %s has %+v, and had %+v", step, id, is, was)
			}
		}
		last = now
	})
}

// known says which parts of a reading there are.
func known(u types.Usage) string {
	return fmt.Sprintf("CPU time %v, memory %v, %d disks, %d networks", u.CPUTime != nil, u.MemoryBytes != nil, len(u.Disks), len(u.Networks))
}

func usageKnown(t *testing.T, s *site) {
	s.running("a")
	first := s.metered("a", "anything", func(types.Usage) bool { return true })
	s.life("a", func(step string) {
		if now := s.metered("a", known(first), func(u types.Usage) bool { return known(u) == known(first) }); now.At.IsZero() {
			t.Errorf("after %s there is no reading", step)
		}
	})
}

// metered reads a VM until the reading is as wanted: a VMM may say a little later what it counted.
func (s *site) metered(id types.VMID, what string, is func(types.Usage) bool) types.Usage {
	s.t.Helper()
	for deadline := time.Now().Add(patience); ; {
		usage := s.read(id)
		if is(usage) {
			return usage
		}
		if time.Now().After(deadline) {
			s.t.Fatalf("%s was never metered with %s, but with %+v", id, what, usage)
		}
	}
}

func usageBeginsAnew(t *testing.T, s *site) {
	const bytes = 1 << 20
	wrote := func(u types.Usage) int64 { return u.Disks["data"].WriteBytes }
	volume := s.volume("v")
	volume.ID = "data"
	s.create("a", with(s.spec(onSecond(bytes)...), volume))
	s.boot("a")
	for incarnation := 1; incarnation <= 2; incarnation++ {
		s.hearsTimes("a", guest.Wrote(bytes, "/dev/vdb"), incarnation)
		now := s.metered("a", "what its guest wrote", func(u types.Usage) bool { return wrote(u) >= bytes })
		if got := wrote(now); got >= 2*bytes {
			t.Errorf("incarnation %d is metered by %d bytes written, and its guest wrote %d", incarnation, got, bytes)
		}
		if incarnation == 1 {
			if _, err := s.Reboot(s.ctx(), "a", true, 0); err != nil {
				t.Fatal(err)
			}
		}
	}
}
