package lab

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// TestPowerLoss boots a machine, takes its power and boots it again.
func TestPowerLoss(t *testing.T) {
	t.Run("systemd", func(t *testing.T) { testPowerLoss(t, false, "/root/kept") })
	t.Run("quick", func(t *testing.T) { testPowerLoss(t, true, "/lab/kept") })
}

func testPowerLoss(t *testing.T, quick bool, kept string) {
	if os.Getenv("METALD_LAB") != "1" {
		t.Skip("emulated machines take minutes; METALD_LAB=1 asks for them")
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Minute)
	defer cancel()
	m := newMachine(ctx, t, quick)
	boot(ctx, t, m)
	first := m.BootID()
	if out := output(ctx, t, m, "stat -fc %T /sys/fs/cgroup; test -c /dev/kvm; echo $?; exit 3", 3); out != "cgroup2fs\n0\n" {
		t.Errorf("the machine says %q", out)
	}
	output(ctx, t, m, "echo kept >"+kept+"; sync "+kept+" "+filepath.Dir(kept), 0)

	hanging := make(chan error, 1)
	up := &signalWriter{seen: make(chan struct{})}
	go func() {
		_, err := m.Run(ctx, Command{Argv: []string{"sh", "-c", "echo up; exec sleep 3600"}, Output: up})
		hanging <- err
	}()
	<-up.seen
	m.PowerLoss()
	if err := <-hanging; !errors.Is(err, ErrOff) {
		t.Errorf("the command that ran ended with %v", err)
	}
	if _, err := m.Run(ctx, Command{Argv: []string{"true"}}); !errors.Is(err, ErrOff) {
		t.Errorf("a machine that is off answers %v", err)
	}

	boot(ctx, t, m)
	if m.BootID() == first || m.BootID() == "" {
		t.Errorf("boot %q after %q", m.BootID(), first)
	}
	if out := output(ctx, t, m, "cat "+kept, 0); out != "kept\n" {
		t.Errorf("what was synced is %q", out)
	}
	brief, stop := context.WithTimeout(ctx, time.Second)
	defer stop()
	if _, err := m.Run(brief, Command{Argv: []string{"sleep", "3600"}}); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a command that is killed ends with %v", err)
	}
}

func newMachine(ctx context.Context, t *testing.T, quick bool) *Machine {
	t.Helper()
	image, err := MakeImage(ctx, "../../build/lab", os.Stderr)
	must(t, err)
	dir, err := os.MkdirTemp("../../build/lab", "test-")
	must(t, err)
	t.Cleanup(func() { must(t, os.RemoveAll(dir)) })
	disk := filepath.Join(dir, "lab.raw")
	must(t, Pack(ctx, disk, Payload{Source: "../.."}))
	m, err := New(ctx, Config{Image: image, Disk: disk, Dir: dir, Quick: quick})
	must(t, err)
	t.Cleanup(func() { must(t, m.Close()) })
	return m
}

func boot(ctx context.Context, t *testing.T, m *Machine) {
	t.Helper()
	began := time.Now()
	must(t, m.Boot(ctx))
	t.Logf("the machine came up in %s", time.Since(began).Round(100*time.Millisecond))
}

func output(ctx context.Context, t *testing.T, m *Machine, script string, want int) string {
	t.Helper()
	var out bytes.Buffer
	code, err := m.Run(ctx, Command{Argv: []string{"sh", "-c", script}, Output: &out})
	must(t, err)
	if code != want {
		t.Fatalf("%s: exit code %d: %s", script, code, &out)
	}
	return out.String()
}

// signalWriter closes seen when the first bytes come.
type signalWriter struct {
	seen chan struct{}
	done bool
}

func (w *signalWriter) Write(p []byte) (int, error) {
	if !w.done {
		w.done = true
		close(w.seen)
	}
	return len(p), nil
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
