package vmmprocess

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/unkeyed/unkey/go/deploy/metald/internal/backend/types"
)

func TestTheEndOfAChildIsSeen(t *testing.T) {
	s := newSupervisor(t)
	t.Run("exit code", func(t *testing.T) {
		v := startVMM(t, s, 7, nil)
		v.hold.Close()
		if status, known := awaitExit(t, v.Process); !known || status.ExitStatus() != 7 {
			t.Errorf("status %v (known: %v), want exit code 7", status, known)
		}
	})
	t.Run("signal", func(t *testing.T) {
		v := startVMM(t, s, 0, nil)
		if err := syscall.Kill(v.Identity().PID, syscall.SIGKILL); err != nil { // as an operator would
			t.Fatal(err)
		}
		if status, known := awaitExit(t, v.Process); !known || status.Signal() != syscall.SIGKILL {
			t.Errorf("status %v (known: %v), want SIGKILL", status, known)
		}
	})
	t.Run("before Run", func(t *testing.T) {
		s := idleSupervisor(t)
		v := startVMM(t, s, 3, nil)
		v.hold.Close()
		eventually(t, "the VMM has ended", func() bool { return !alive(v.Identity().PID) })
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- s.Run(ctx) }()
		if status, known := awaitExit(t, v.Process); !known || status.ExitStatus() != 3 {
			t.Errorf("status %v (known: %v), want exit code 3", status, known)
		}
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run: %v", err)
		}
	})
}

func TestProcessesGoOnAfterRun(t *testing.T) {
	s := idleSupervisor(t)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	v := startVMM(t, s, 0, nil)
	cancel()
	if err := <-done; err != nil {
		t.Fatalf("Run: %v", err)
	}
	if !alive(v.Identity().PID) {
		t.Error("the VMM ended with Run")
	}
	if _, err := s.Start(t.Context(), sleepCommand(t), accept); err == nil {
		t.Error("Start started a process that nobody watches")
	}
	if err := v.Kill(t.Context()); err != nil {
		t.Errorf("Kill after Run: %v", err)
	}
	if status, known := awaitExit(t, v.Process); !known || status.Signal() != syscall.SIGKILL {
		t.Errorf("status %v (known: %v), want SIGKILL", status, known)
	}
}

func TestSignalAndKill(t *testing.T) {
	s := newSupervisor(t)
	p := startSleep(t, s)
	if err := p.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if status, known := awaitExit(t, p); !known || status.Signal() != syscall.SIGTERM {
		t.Errorf("status %v (known: %v), want SIGTERM", status, known)
	}
	if err := p.Signal(syscall.SIGTERM); !errors.Is(err, os.ErrProcessDone) {
		t.Errorf("signal to a process that has ended: %v, want %v", err, os.ErrProcessDone)
	}
	if err := p.Kill(t.Context()); err != nil {
		t.Errorf("kill of a process that has ended: %v", err)
	}

	p = startSleep(t, s)
	p.Release()
	p.Release()
	if err := p.Signal(syscall.SIGTERM); !errors.Is(err, errReleased) {
		t.Errorf("signal to a process that was released: %v", err)
	}
	if !alive(p.Identity().PID) {
		t.Error("Release ended the process")
	}
	again, err := s.Adopt(p.Identity())
	if err != nil {
		t.Fatal(err)
	}
	cleanUp(t, again)
}

// Others in this process start processes, too: their children are not taken from them.
func TestOthersKeepTheirChildren(t *testing.T) {
	s := newSupervisor(t)
	var wg sync.WaitGroup
	wg.Go(func() {
		for range 50 {
			cmd := exec.Command("/bin/sh", "-c", "exit 5")
			var exit *exec.ExitError
			if err := cmd.Run(); !errors.As(err, &exit) || exit.ExitCode() != 5 {
				t.Errorf("another's child: %v, want exit code 5", err)
			}
		}
	})
	for range 50 {
		p, err := s.Start(t.Context(), sleepCommand(t), accept)
		if err != nil {
			t.Fatal(err)
		}
		if err := p.Kill(t.Context()); err != nil {
			t.Error(err)
		}
	}
	wg.Wait()
}

func TestManyStartsLeaveNothing(t *testing.T) {
	s := newSupervisor(t)
	cycle := func() {
		c := sleepCommand(t)
		c.Args = []string{"0"}
		p, err := s.Start(t.Context(), c, accept)
		if err != nil {
			t.Fatal(err)
		}
		if status, known := awaitExit(t, p); !known || status != 0 {
			t.Fatalf("status %v (known: %v), want 0", status, known)
		}
	}
	cycle()
	files, goroutines := openFiles(t), runtime.NumGoroutine()
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for range 125 {
				cycle()
			}
		})
	}
	wg.Wait()
	if n := openFiles(t); n > files {
		t.Errorf("%d open files, were %d", n, files)
	}
	eventually(t, "no goroutine is left", func() bool { return runtime.NumGoroutine() <= goroutines })
	if pids := children(t); len(pids) != 0 {
		t.Errorf("children are left: %v", pids)
	}
	if n := s.poller.Len(); n != 0 {
		t.Errorf("%d processes are still watched", n)
	}
}

func TestManyVMMsTakeNoThreads(t *testing.T) {
	s := newSupervisor(t)
	goroutines := runtime.NumGoroutine()
	const n = 300
	all := make([]*Process, n)
	for i := range all {
		all[i] = startSleep(t, s)
	}
	if got := runtime.NumGoroutine() - goroutines; got > 2 {
		t.Errorf("%d goroutines more for %d processes", got, n)
	}
	entries, err := os.ReadDir("/proc/self/task")
	if err != nil {
		t.Fatal(err)
	}
	if most := runtime.GOMAXPROCS(0) + 8; len(entries) > most {
		t.Errorf("%d threads with %d processes, want at most %d", len(entries), n, most)
	}
	for _, p := range all {
		if err := p.Signal(syscall.SIGKILL); err != nil {
			t.Error(err)
		}
	}
	for _, p := range all {
		awaitExit(t, p)
	}
}

// Release, Kill, Signal, Status and the watcher meet on the same process.
func TestVerbsRace(t *testing.T) {
	s := newSupervisor(t)
	for range 20 {
		p := startSleep(t, s)
		var wg sync.WaitGroup
		wg.Go(func() { _ = p.Signal(syscall.SIGTERM) })
		wg.Go(func() {
			if err := p.Kill(t.Context()); err != nil {
				t.Error(err)
			}
		})
		wg.Go(func() { <-p.Exited(); p.Status() })
		wg.Go(func() { _ = p.Signal(0) })
		wg.Wait()
		p.Release()
	}
}

// children returns the children of this process, zombies included.
func children(t testing.TB) []int {
	t.Helper()
	var pids []int
	entries, err := os.ReadDir("/proc")
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		if st, err := readStat(pid); err == nil && st.PPID == os.Getpid() {
			pids = append(pids, pid)
		}
	}
	return pids
}

// BenchmarkStart compares with what no VMM can be started for less: fork and exec.
func BenchmarkStart(b *testing.B) {
	s := newSupervisor(b)
	c := sleepCommand(b)
	b.Run("gate", func(b *testing.B) {
		for b.Loop() {
			p, err := s.Start(context.Background(), c, accept)
			if err != nil {
				b.Fatal(err)
			}
			b.StopTimer()
			awaitExec(b, p)
			if err := p.Kill(context.Background()); err != nil {
				b.Fatal(err)
			}
			b.StartTimer()
		}
	})
	b.Run("floor", func(b *testing.B) {
		for b.Loop() {
			pid := forkExec(b, c)
			b.StopTimer()
			if err := killChild(pid); err != nil {
				b.Fatal(err)
			}
			b.StartTimer()
		}
	})
}

// BenchmarkStartToExec is the time until the VMM's own code runs, with a commit as long as that of a store.
func BenchmarkStartToExec(b *testing.B) {
	s := newSupervisor(b)
	trueTool, err := exec.LookPath("true")
	if err != nil {
		b.Skip("there is no true(1) on this machine")
	}
	c := Command{Path: trueTool}
	commit := func(types.ProcessIdentity) error {
		for start := time.Now(); time.Since(start) < 300*time.Microsecond; {
			runtime.Gosched()
		}
		return nil
	}
	b.Run("gate", func(b *testing.B) {
		for b.Loop() {
			p, err := s.Start(context.Background(), c, commit)
			if err != nil {
				b.Fatal(err)
			}
			<-p.Exited()
		}
	})
	b.Run("floor", func(b *testing.B) {
		for b.Loop() {
			_ = commit(types.ProcessIdentity{})
			if _, err := syscall.Wait4(forkExec(b, c), nil, 0, nil); err != nil {
				b.Fatal(err)
			}
		}
	})
}

// BenchmarkExit is the time from SIGKILL to Exited.
func BenchmarkExit(b *testing.B) {
	s := newSupervisor(b)
	c := sleepCommand(b)
	b.Run("seen", func(b *testing.B) {
		for b.Loop() {
			b.StopTimer()
			p, err := s.Start(context.Background(), c, accept)
			if err != nil {
				b.Fatal(err)
			}
			awaitExec(b, p)
			b.StartTimer()
			if err := p.Signal(syscall.SIGKILL); err != nil {
				b.Fatal(err)
			}
			<-p.Exited()
		}
	})
	b.Run("floor", func(b *testing.B) {
		for b.Loop() {
			b.StopTimer()
			pid := forkExec(b, c)
			b.StartTimer()
			if err := killChild(pid); err != nil {
				b.Fatal(err)
			}
		}
	})
}

func forkExec(b *testing.B, c Command) int {
	b.Helper()
	pid, err := syscall.ForkExec(c.Path, append([]string{c.Path}, c.Args...), &syscall.ProcAttr{})
	if err != nil {
		b.Fatal(err)
	}
	return pid
}
