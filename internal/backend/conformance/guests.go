package conformance

import (
	"testing"
	"time"

	"github.com/unkeyed/unkey/go/deploy/metald/internal/guest"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/vm/lifecycle"
)

func guestSentences() []sentence {
	return []sentence{
		{"a boot reaches user space, and a guest that is paused stands still", []Ability{Guest}, standsStill},
		{"the console log is bounded", []Ability{Guest, Flood}, boundedConsole},
		{"a console that is not asked for is not kept", nil, noConsole},
	}
}

func standsStill(t *testing.T, s *site) {
	s.guest("a", guest.ArgCount+"=1")
	s.wantState("a", lifecycle.Running)
	s.hears("a", guest.Second(1))
	if _, err := s.Pause(s.ctx(), "a"); err != nil {
		t.Fatal(err)
	}
	log, err := s.Console("a")
	if err != nil {
		t.Fatal(err)
	}
	settle := time.NewTimer(300 * time.Millisecond) // for what was said before
	<-settle.C
	before, err := log.Tail(consoleBytes)
	if err != nil {
		t.Fatal(err)
	}
	settle.Reset(1500 * time.Millisecond) // longer than the guest is silent while it runs
	<-settle.C
	after, err := log.Tail(consoleBytes)
	if err != nil || len(after) != len(before) {
		t.Errorf("a paused guest said %q, %v", after[len(before):], err)
	}
	if _, err := s.Resume(s.ctx(), "a"); err != nil {
		t.Fatal(err)
	}
	s.hears("a", guest.Second(3))
}

func boundedConsole(t *testing.T, s *site) {
	s.running("a", guest.ArgFlood+"=1")
	log, err := s.Console("a")
	if err != nil {
		t.Fatal(err)
	}
	deadline := time.Now().Add(s.h.BootTimeout)
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		chunk, err := log.Reader(-1).Next(s.ctx(), true)
		if err != nil {
			t.Fatal(err)
		}
		if size := s.consoleSize("a"); size > consoleBytes {
			t.Fatalf("the console takes %d bytes of the disk, more than %d", size, consoleBytes)
		}
		if chunk.Offset > 2*consoleBytes {
			break // what was kept has been replaced more than twice
		}
		if time.Now().After(deadline) {
			t.Fatalf("the guest has only written %d bytes", chunk.Offset)
		}
		<-tick.C
	}
}

func noConsole(t *testing.T, s *site) {
	spec := s.spec()
	spec.Console.Output = "none"
	s.create("a", spec)
	s.boot("a")
	if _, err := s.Shutdown(s.ctx(), "a", true, 0); err != nil {
		t.Fatal(err)
	}
	if size := s.consoleSize("a"); size != 0 {
		t.Errorf("%d bytes of a console that nobody wanted were kept", size)
	}
}
