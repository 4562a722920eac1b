package conformance

import (
	"reflect"
	"testing"
	"time"

	"github.com/unkeyed/unkey/go/deploy/metald/internal/backend/types"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/guest"
)

func lastWordSentences() []sentence {
	return []sentence{
		{"what a machine used stays readable when it was killed, and is no less than was seen before", nil, lastWord(func(s *site, m types.Machine) { s.killMachine(m) })},
		{"what a machine used stays readable when it was destroyed, and is no less than was seen before", nil, lastWord(func(s *site, m types.Machine) { s.destroy(m) })},
		{"a guest that never ran used no disk", nil, neverRan},
		{"what a guest wrote until it was ended by force is in the last reading", []Ability{Guest}, wroteUntilForced},
		{"what a guest wrote until it powered off is in the last reading", []Ability{Guest, LastWrites}, wroteUntilOff},
	}
}

func (s *site) destroy(m types.Machine) {
	s.t.Helper()
	if err := m.Destroy(s.ctx()); err != nil {
		s.t.Error(err)
	}
}

func (s *site) bootMachine(m types.Machine) {
	s.t.Helper()
	if err := m.Boot(s.ctx()); err != nil {
		s.t.Fatal(err)
	}
}

// last returns what a machine that has ended used in all, and sees that it stays.
func (s *site) last(m types.Machine) types.Usage {
	s.t.Helper()
	s.exits(m)
	u, err := m.Usage(s.ctx())
	if err != nil {
		s.t.Fatal(err)
	}
	s.destroy(m)
	again, err := m.Usage(s.ctx())
	if err != nil || again.CPUTime == nil != (u.CPUTime == nil) || u.CPUTime != nil && *again.CPUTime != *u.CPUTime ||
		!reflect.DeepEqual(again.Disks, u.Disks) || !reflect.DeepEqual(again.Networks, u.Networks) {
		s.t.Errorf("usage in all was %+v and became %+v, %v", u, again, err)
	}
	if u.MemoryBytes != nil {
		s.t.Errorf("a machine that has ended has %d bytes of memory", *u.MemoryBytes)
	}
	return u
}

// lastWord has a machine run, looks at it until it ends, and then once more.
func lastWord(end func(*site, types.Machine)) func(*testing.T, *site) {
	return func(t *testing.T, s *site) {
		m := s.machine(s.request())
		s.bootMachine(m)
		var seen types.Usage
		for looks := range 3 {
			now, err := m.Usage(s.ctx())
			if err != nil {
				t.Fatalf("look %d: %v", looks, err)
			}
			notLess(t, seen, now)
			seen = now
		}
		end(s, m)
		all := s.last(m)
		if seen.CPUTime != nil && all.CPUTime == nil {
			t.Error("the CPU time of a machine that this metald started is not known in the end")
		}
		notLess(t, seen, all)
	}
}

// notLess sees that nothing fell. What is not known is not less.
func notLess(t *testing.T, before, now types.Usage) {
	t.Helper()
	if before.CPUTime != nil && now.CPUTime != nil && *now.CPUTime < *before.CPUTime {
		t.Errorf("the CPU time fell from %s to %s", *before.CPUTime, *now.CPUTime)
	}
	for id, was := range before.Disks {
		is, known := now.Disks[id]
		if known && (is.ReadBytes < was.ReadBytes || is.WriteBytes < was.WriteBytes || is.ReadOps < was.ReadOps || is.WriteOps < was.WriteOps) {
			t.Errorf("disk %s fell from %+v to %+v", id, was, is)
		}
	}
}

func neverRan(t *testing.T, s *site) {
	for name, end := range map[string]func(types.Machine){"killed": s.killMachine, "destroyed": s.destroy} {
		m := s.machine(s.request())
		end(m)
		all := s.last(m)
		for id, disk := range all.Disks {
			if disk != (types.DiskUsage{}) {
				t.Errorf("%s: disk %s has %+v", name, id, disk)
			}
		}
		if len(all.Disks) != len(s.request().Spec.Disks) {
			t.Errorf("%s: the disks are %+v", name, all.Disks)
		}
	}
}

// writer makes a machine whose guest writes to its second disk.
func (s *site) writer(bytes int, args ...string) types.Machine {
	s.t.Helper()
	req := s.request()
	volume := s.volume("written")
	req.Spec = with(s.spec(append(onSecond(bytes), args...)...), volume)
	for i := range req.Disks {
		req.Spec.Disks[i].ReadOnly = true
	}
	req.Disks = append(req.Disks, volume.Path)
	m := s.machine(req)
	s.bootMachine(m)
	return m
}

func allWritten(u types.Usage) (bytes int64) {
	for _, d := range u.Disks {
		bytes += d.WriteBytes
	}
	return bytes
}

func wroteUntilForced(t *testing.T, s *site) {
	const bytes = 256 << 10
	m := s.writer(bytes)
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(s.h.BootTimeout + patience); ; <-tick.C {
		if u, err := m.Usage(s.ctx()); err == nil && allWritten(u) >= bytes {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("what the guest writes is not counted")
		}
	}
	s.destroy(m)
	if got := allWritten(s.last(m)); got < bytes {
		t.Errorf("%d bytes were seen to be written, and %d are in the last reading", bytes, got)
	}
}

func wroteUntilOff(t *testing.T, s *site) {
	const bytes = 256 << 10
	m := s.writer(bytes, guest.ArgExit+"="+guest.ExitPowerOff)
	select {
	case <-m.Exited():
	case <-time.After(s.h.BootTimeout + patience):
		t.Fatal("the guest did not power off")
	}
	if got := allWritten(s.last(m)); got < bytes {
		t.Errorf("the guest wrote %d bytes, and %d are in the last reading", bytes, got)
	}
}
