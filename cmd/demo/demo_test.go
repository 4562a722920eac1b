package main

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/unkeyed/unkey/go/deploy/metald/internal/guest"
	"github.com/unkeyed/unkey/go/deploy/metald/test/harness"
)

func TestMain(m *testing.M) {
	code := m.Run()
	harness.Remove()
	os.Exit(code)
}

// theatre gives the demo a directory for temporary files of its own, and returns it with the demo's arguments.
func theatre(t *testing.T) (dir string, args []string) {
	assets := harness.Assets(t)
	dir, err := os.MkdirTemp("", "m")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o711); err != nil {
		t.Fatal(err)
	}
	args = []string{"-metald", harness.Binary(t), "-assets", assets}
	t.Setenv("TMPDIR", dir)
	return dir, args
}

func TestDemo(t *testing.T) {
	dir, args := theatre(t)
	var out bytes.Buffer
	if err := run(t.Context(), args, &out); err != nil {
		t.Fatalf("%v\n%s", err, out.Bytes())
	}
	for _, want := range []string{"VM_STATE_CREATED", "VM_STATE_PAUSED", "incarnation 2", guest.PoweringOff, "guest-shutdown", "all of it was observed"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("it did not say %q:\n%s", want, out.Bytes())
		}
	}
	nothingLeft(t, dir)
}

// TestInterrupted takes Ctrl-C for an answer while a guest runs.
func TestInterrupted(t *testing.T) {
	dir, args := theatre(t)
	ctx, interrupt := context.WithCancel(t.Context())
	defer interrupt()
	out := &listener{want: guest.Marker, then: interrupt}
	if err := run(ctx, args, out); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v\n%s", err, out.text.Bytes())
	}
	nothingLeft(t, dir)
}

// TestMetaldDies makes the demo fail, and still nothing may be left: not even the VMM that metald left behind.
func TestMetaldDies(t *testing.T) {
	dir, args := theatre(t)
	out := &listener{want: guest.Marker}
	out.then = func() {
		for _, pid := range processes(t, dir) {
			if name, _ := os.ReadFile(filepath.Join("/proc", pid.name, "comm")); strings.TrimSpace(string(name)) == "metald" {
				_ = syscall.Kill(pid.id, syscall.SIGKILL)
			}
		}
	}
	if err := run(t.Context(), args, out); err == nil {
		t.Error("the demo ended well without metald")
	}
	nothingLeft(t, dir)
}

// listener calls then once, when it has heard want.
type listener struct {
	mu   sync.Mutex
	text bytes.Buffer
	want string
	then func()
	once sync.Once
}

func (l *listener) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.text.Write(p)
	if strings.Contains(l.text.String(), l.want) {
		l.once.Do(l.then)
	}
	return len(p), nil
}
