package cloudhypervisor

import (
	"context"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/unkeyed/unkey/go/deploy/metald/internal/backend/backendtest"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/console"
)

// screenOn returns a screen on a serial port, and where it writes.
func screenOn(t *testing.T, p *port) (*screen, *backendtest.Screen) {
	t.Helper()
	drainer, err := console.NewDrainer()
	must(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- drainer.Run(ctx) }()
	out := new(backendtest.Screen)
	s := &screen{
		dial: func(context.Context) (*net.UnixConn, error) {
			return net.DialUnix("unix", nil, p.listener.Addr().(*net.UnixAddr))
		},
		drainer: drainer, keeps: true, burst: make(chan struct{}, 1), stream: newSerialStream(out, v53),
	}
	t.Cleanup(func() { s.close(); cancel(); must(t, <-done) })
	return s, out
}

// The end of a burst stays in the VMM until a new connection fetches it.
func TestTheRestOfABurstIsFetched(t *testing.T) {
	p := openPort(t, serialKept)
	s, out := screenOn(t, p)
	must(t, s.connect(t.Context(), partedNever, 0))
	burst := strings.Repeat("burst ", 5000) + "the end"
	p.print(burst)
	select {
	case <-s.burst:
	case <-time.After(patience):
		t.Fatal("the burst was not noticed")
	}
	for deadline := time.Now().Add(patience); out.String() != burst; {
		if time.Now().After(deadline) {
			t.Fatalf("%d of %d bytes came", len(out.String()), len(burst))
		}
		s.again(t.Context())
	}
	if strings.Contains(out.String(), "[metald:") {
		t.Error("something is said to be missing")
	}
}

// A metald that stops in good order leaves everything to the next.
func TestPartingLeavesAllToTheNext(t *testing.T) {
	p := openPort(t, serialKept)
	dir := t.TempDir()
	first, out := screenOn(t, p)
	must(t, first.connect(t.Context(), partedNever, 0))
	p.print("one ")
	first.part(dir)
	first.close()
	p.print("two ")
	before, away := parted(dir)
	if before != partedWell || out.String() != "one " {
		t.Fatalf("parted %d after %q", before, out)
	}
	second, out := screenOn(t, p)
	must(t, second.connect(t.Context(), before, away))
	p.print("three")
	out.WaitFor(t, patience, "two three")
	if strings.Contains(out.String(), "[metald:") {
		t.Errorf("something is said to be missing: %q", out)
	}
	if again, _ := parted(dir); again != partedHard {
		t.Error("a note was used twice")
	}
}
