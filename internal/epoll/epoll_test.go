package epoll

import (
	"context"
	"os"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const limit = 20 * time.Second

func run(t *testing.T, p *Poller[string], handle func(string)) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- p.Run(ctx, handle) }()
	stop = sync.OnceFunc(func() {
		cancel()
		select {
		case err := <-done:
			if err != nil {
				t.Errorf("Run: %v", err)
			}
		case <-time.After(limit):
			t.Error("Run goes on after its context ended")
		}
	})
	t.Cleanup(stop)
	return stop
}

// readable returns a descriptor that stays readable.
func readable(t *testing.T) int {
	t.Helper()
	var fds [2]int
	if err := unix.Pipe2(fds[:], unix.O_CLOEXEC); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(fds[0]); unix.Close(fds[1]) })
	if _, err := unix.Write(fds[1], []byte("x")); err != nil {
		t.Fatal(err)
	}
	return fds[0]
}

func TestReadableBeforeAndAfterRun(t *testing.T) {
	p, err := New[string](0)
	if err != nil {
		t.Fatal(err)
	}
	early := readable(t)
	token, err := p.Add(early, "early")
	if err != nil {
		t.Fatal(err)
	}
	handled := make(chan string, 2)
	removed := make(chan struct{})
	times := map[string]int{}
	stop := run(t, p, func(s string) {
		if times[s]++; times[s] == 1 {
			handled <- s
			<-removed
		}
	})
	if got := <-handled; got != "early" {
		t.Fatalf("handled %q", got)
	}
	p.Remove(early, token)
	late := readable(t)
	if token, err = p.Add(late, "late"); err != nil {
		t.Fatal(err)
	}
	close(removed)
	if got := <-handled; got != "late" {
		t.Fatalf("handled %q, want what was added while Run runs, and nothing that was removed", got)
	}
	stop()
	if times["early"] != 1 {
		t.Errorf("what was removed was handled %d times", times["early"])
	}
	p.Remove(late, token)
	if n := p.Len(); n != 0 {
		t.Errorf("%d are watched", n)
	}
	if _, err := p.Add(late, "never"); err == nil {
		t.Error("Add after Run went well, and nobody watches")
	}
}

// One descriptor that is always readable keeps Run neither from the others nor from its end.
func TestBusyDescriptorStarvesNobody(t *testing.T) {
	p, err := New[string](0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := p.Add(readable(t), "busy"); err != nil {
		t.Fatal(err)
	}
	seen := make(chan struct{})
	once := sync.OnceFunc(func() { close(seen) })
	stop := run(t, p, func(s string) {
		if s == "other" {
			once()
		}
	})
	if _, err := p.Add(readable(t), "other"); err != nil {
		t.Fatal(err)
	}
	select {
	case <-seen:
	case <-time.After(limit):
		t.Fatal("the other was not handled")
	}
	stop()
}

func TestAddOfWhatCannotBeWatched(t *testing.T) {
	p, err := New[string](0)
	if err != nil {
		t.Fatal(err)
	}
	f, err := os.CreateTemp(t.TempDir(), "")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := p.Add(int(f.Fd()), "file"); err == nil {
		t.Error("a regular file cannot be watched, and nobody was told")
	}
	if n := p.Len(); n != 0 {
		t.Errorf("%d are watched", n)
	}
	for range 2 {
		if err := p.Close(); err != nil {
			t.Errorf("Close: %v", err)
		}
	}
}
