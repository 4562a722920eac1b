package vmmprocess

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/unkeyed/unkey/go/deploy/metald/internal/backend/types"
)

// The test binary plays the processes of the tests: VMMs, and metalds that get killed.
const roleEnv = "VMMPROCESS_TEST_ROLE"

func TestMain(m *testing.M) {
	switch role := os.Getenv(roleEnv); role {
	case "":
		goleak.VerifyTestMain(m)
	case "vmm":
		playVMM()
	case "relisten":
		playRelisten()
	case "jailer":
		playJailer()
	case "metald":
		playMetald()
	default:
		panic("unknown role " + role)
	}
}

// playVMM says on file FirstFile that it runs, waits for the end of file FirstFile+1, and exits with the code in
// its first argument.
func playVMM() {
	os.NewFile(FirstFile, "ready").WriteString("run")
	if _, err := io.Copy(io.Discard, os.NewFile(FirstFile+1, "hold")); err != nil {
		panic(err)
	}
	code, err := strconv.Atoi(os.Args[1])
	if err != nil {
		panic(err)
	}
	os.Exit(code)
}

var discard = slog.New(slog.DiscardHandler)

const limit = 20 * time.Second // for a thing that takes milliseconds on an idle machine

// newSupervisor returns one whose Run runs until the test ends.
func newSupervisor(t testing.TB) *Supervisor {
	t.Helper()
	s := idleSupervisor(t)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run: %v", err)
		}
	})
	return s
}

func idleSupervisor(t testing.TB) *Supervisor {
	t.Helper()
	s, err := New(slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.poller.Close() })
	return s
}

// vmm is a process of role vmm.
type vmm struct {
	*Process
	ready, hold *os.File
}

// startVMM returns once the VMM says that it runs.
func startVMM(t *testing.T, s *Supervisor, code int, change func(*Command)) *vmm {
	t.Helper()
	readyR, readyW := pipe(t)
	holdR, holdW := pipe(t)
	c := Command{
		Path:  self(t),
		Args:  []string{strconv.Itoa(code)},
		Env:   []string{roleEnv + "=vmm"},
		Files: []*os.File{readyW, holdR},
	}
	if change != nil {
		change(&c)
	}
	p, err := s.Start(t.Context(), c, accept)
	if err != nil {
		t.Fatal(err)
	}
	cleanUp(t, p)
	readyW.Close()
	holdR.Close()
	v := &vmm{Process: p, ready: readyR, hold: holdW}
	b := make([]byte, 3)
	if _, err := io.ReadFull(readyR, b); err != nil {
		t.Fatalf("the VMM did not come up: %v", err)
	}
	return v
}

// sleepCommand does nothing for longer than any test.
func sleepCommand(t testing.TB) Command {
	t.Helper()
	path, err := exec.LookPath("sleep")
	if err != nil {
		t.Skip("there is no sleep(1) on this machine")
	}
	return Command{Path: path, Args: []string{"3600"}}
}

func startSleep(t testing.TB, s *Supervisor) *Process {
	t.Helper()
	p, err := s.Start(context.Background(), sleepCommand(t), accept)
	if err != nil {
		t.Fatal(err)
	}
	cleanUp(t, p)
	return p
}

// cleanUp ends p after the test unless it has ended or was released.
func cleanUp(t testing.TB, p *Process) {
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), limit)
		defer cancel()
		if err := p.Kill(ctx); err != nil && !errors.Is(err, errReleased) {
			t.Errorf("clean up: %v", err)
		}
	})
}

func accept(types.ProcessIdentity) error { return nil }

func awaitExit(t testing.TB, p *Process) (syscall.WaitStatus, bool) {
	t.Helper()
	select {
	case <-p.Exited():
	case <-time.After(limit):
		t.Fatalf("the end of process %d was not seen", p.Identity().PID)
	}
	return p.Status()
}

func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(limit); !ok(); {
		if time.Now().After(deadline) {
			t.Fatalf("not in %s: %s", limit, what)
		}
		time.Sleep(time.Millisecond)
	}
}

func pipe(t testing.TB) (r, w *os.File) {
	t.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.Close(); w.Close() })
	return r, w
}

func self(t testing.TB) string {
	t.Helper()
	path, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	return path
}

// alive tells whether a process that is no zombie has this pid.
func alive(pid int) bool {
	st, err := readStat(pid)
	return err == nil && st.State != 'Z' && st.State != 'X'
}

// playMetald starts VMMs as a metald does and keeps records of them in a directory. Arguments: that directory,
// a marker for the VMMs' arguments, and where it kills itself, or "no".
func playMetald() {
	dir, marker, fatal := os.Args[1], os.Args[2], os.Args[3]
	point := func(name string) {
		if name == fatal {
			syscall.Kill(os.Getpid(), syscall.SIGKILL)
			select {}
		}
	}
	s, err := New(slog.New(slog.DiscardHandler))
	if err != nil {
		panic(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	go s.Run(ctx)
	path, err := exec.LookPath("sleep")
	if err != nil {
		panic(err)
	}
	os.Stdout.WriteString("up\n")
	for range 1000 { // it is killed long before
		_, err := s.Start(ctx, Command{Path: path, Args: []string{marker}}, func(id types.ProcessIdentity) error {
			point("before-record")
			writeRecord(dir, id)
			point("after-record")
			return nil
		})
		if err != nil {
			panic(err)
		}
		point("started")
	}
	select {}
}

// writeRecord makes a record that is there whole or not at all.
func writeRecord(dir string, id types.ProcessIdentity) {
	b, err := json.Marshal(id)
	if err != nil {
		panic(err)
	}
	tmp := filepath.Join(dir, rand.Text()+".tmp")
	if err := os.WriteFile(tmp, b, 0o600); err != nil {
		panic(err)
	}
	if err := os.Rename(tmp, filepath.Join(dir, strconv.Itoa(id.PID)+".json")); err != nil {
		panic(err)
	}
}
