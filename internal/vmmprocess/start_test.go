package vmmprocess

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/unkeyed/unkey/go/deploy/metald/internal/backend/types"
)

func TestNothingRunsBeforeCommitReturns(t *testing.T) {
	s := newSupervisor(t)
	readyR, readyW := pipe(t)
	holdR, _ := pipe(t)
	var committed types.ProcessIdentity
	c := Command{Path: self(t), Args: []string{"0"}, Env: []string{roleEnv + "=vmm"}, Files: []*os.File{readyW, holdR}}
	p, err := s.Start(t.Context(), c, func(id types.ProcessIdentity) error {
		committed = id
		// The gate blocks in read(2) of the pipe: only then would a faulty gate have gone on already.
		eventually(t, "the gate waits", func() bool {
			b, _ := os.ReadFile(procPath(id.PID, "syscall"))
			return strings.HasPrefix(string(b), fmt.Sprintf("%d ", unix.SYS_READ))
		})
		if exe, err := statExecutable(procPath(id.PID, "exe")); err != nil || !isGate(id.PID, exe) {
			t.Errorf("in commit the process runs %v (%v), want the gate", exe, err)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	cleanUp(t, p)
	readyW.Close()
	if _, err := readyR.Read(make([]byte, 3)); err != nil {
		t.Fatalf("the VMM did not come up: %v", err)
	}
	if p.Identity() != committed {
		t.Errorf("identity %+v, committed was %+v", p.Identity(), committed)
	}
	st, err := readStat(committed.PID)
	if err != nil || st.StartTicks != committed.StartTicks {
		t.Errorf("start ticks are %d (%v) in the VMM, committed were %d", st.StartTicks, err, committed.StartTicks)
	}
	exe, err := statExecutable(procPath(committed.PID, "exe"))
	if err != nil || exe != (Executable{committed.ExeDevice, committed.ExeInode}) {
		t.Errorf("the VMM runs %+v (%v), committed was %+v", exe, err, committed)
	}
}

func TestFailedCommitLeavesNoProcess(t *testing.T) {
	s := newSupervisor(t)
	full := errors.New("the disk is full")
	for name, test := range map[string]struct {
		commit func(cancel func()) error
		want   error
	}{
		"error":  {func(func()) error { return full }, full},
		"cancel": {func(cancel func()) error { cancel(); return nil }, context.Canceled},
	} {
		t.Run(name, func(t *testing.T) {
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			before := openFiles(t)
			var id types.ProcessIdentity
			_, err := s.Start(ctx, sleepCommand(t), func(got types.ProcessIdentity) error {
				id = got
				return test.commit(cancel)
			})
			if !errors.Is(err, test.want) {
				t.Errorf("error %v, want %v", err, test.want)
			}
			if err := syscall.Kill(id.PID, 0); err != syscall.ESRCH {
				t.Errorf("process %d is still there: %v", id.PID, err)
			}
			if after := openFiles(t); after > before {
				t.Errorf("%d open files, were %d", after, before)
			}
		})
	}
}

func TestCancelAfterStartChangesNothing(t *testing.T) {
	s := newSupervisor(t)
	ctx, cancel := context.WithCancel(t.Context())
	p, err := s.Start(ctx, sleepCommand(t), accept)
	if err != nil {
		t.Fatal(err)
	}
	cleanUp(t, p)
	cancel()
	awaitExec(t, p)
	if !alive(p.Identity().PID) {
		t.Error("the VMM ended with the context that it was started under")
	}
}

func TestCommandsThatCannotBeVMMs(t *testing.T) {
	s := newSupervisor(t)
	dir := t.TempDir()
	write := func(name, content string, mode os.FileMode) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(content), mode); err != nil {
			t.Fatal(err)
		}
		return path
	}
	closed, _ := pipe(t)
	closed.Close()
	sleep := sleepCommand(t).Path
	for name, test := range map[string]struct {
		c    Command
		want string
	}{
		"relative":       {Command{Path: "sleep"}, "not an absolute path"},
		"missing":        {Command{Path: dir + "/none"}, "no such file"},
		"directory":      {Command{Path: dir}, "not a regular file"},
		"not executable": {Command{Path: write("plain", "\x7fELF", 0o600)}, "not executable"},
		"script":         {Command{Path: write("script", "#!/bin/sh\n", 0o700)}, "not an ELF"},
		"empty":          {Command{Path: write("empty", "", 0o700)}, "not an ELF"},
		"nil file":       {Command{Path: sleep, Files: []*os.File{nil}}, "nil or closed"},
		"closed file":    {Command{Path: sleep, Files: []*os.File{closed}}, "nil or closed"},
		"PWD":            {Command{Path: sleep, Env: []string{"PWD=/x"}}, "PWD"},
		"no directory":   {Command{Path: sleep, Dir: dir + "/none"}, "working directory"},
		"stderr":         {Command{Path: sleep, Stderr: dir + "/none/log"}, "none/log"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := s.Start(t.Context(), test.c, func(types.ProcessIdentity) error {
				t.Error("committed")
				return nil
			})
			if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("error %v, want one that tells %q", err, test.want)
			}
		})
	}
}

// A VMM that goes away between the check and the exec is told by the exit code and the shell's words.
func TestExecThatFailsBehindTheGate(t *testing.T) {
	s := newSupervisor(t)
	for name, test := range map[string]struct {
		spoil func(path string) error
		code  int
	}{
		"removed":        {os.Remove, 127},
		"not executable": {func(path string) error { return os.Chmod(path, 0o600) }, 126},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			path := filepath.Join(dir, "vmm")
			if err := copyFile(sleepCommand(t).Path, path); err != nil {
				t.Fatal(err)
			}
			c := Command{Path: path, Args: []string{"3600"}, Stderr: filepath.Join(dir, "log")}
			p, err := s.Start(t.Context(), c, func(types.ProcessIdentity) error { return test.spoil(path) })
			if err != nil {
				t.Fatal(err)
			}
			status, known := awaitExit(t, p)
			if !known || status.ExitStatus() != test.code {
				t.Errorf("exit code %d (known: %v), want %d", status.ExitStatus(), known, test.code)
			}
			if b, err := os.ReadFile(c.Stderr); err != nil || !strings.Contains(string(b), path) {
				t.Errorf("stderr is %q (%v), want the path of the VMM", b, err)
			}
		})
	}
}

func TestTheVMMHasOnlyTheFilesItWasGiven(t *testing.T) {
	// A file that metald inherited, as from a careless shell, and files of its own.
	inherited, err := unix.Open("/dev/zero", unix.O_RDONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(inherited)
	own, err := os.Open("/dev/zero")
	if err != nil {
		t.Fatal(err)
	}
	defer own.Close()
	s := newSupervisor(t)
	startSleep(t, s)
	log := filepath.Join(t.TempDir(), "log")
	v := startVMM(t, s, 0, func(c *Command) { c.Stderr = log })

	got := map[string]string{}
	entries, err := os.ReadDir(procPath(v.Identity().PID, "fd"))
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		target, err := os.Readlink(procPath(v.Identity().PID, "fd/"+e.Name()))
		if err != nil {
			t.Fatal(err)
		}
		got[e.Name()] = target
	}
	want := map[string]string{"0": "/dev/null", "1": log, "2": log, "4": "pipe:", "5": "pipe:"}
	for fd, target := range got {
		// The Go runtime of the test's VMM opens these for itself.
		if target == "anon_inode:[eventpoll]" || target == "anon_inode:[eventfd]" || strings.HasPrefix(target, "/sys/fs/cgroup/") {
			continue
		}
		if prefix, ok := want[fd]; !ok || !strings.HasPrefix(target, prefix) {
			t.Errorf("file %s of the VMM is %s", fd, target)
		}
	}
	for fd := range want {
		if _, ok := got[fd]; !ok {
			t.Errorf("the VMM has no file %s", fd)
		}
	}
}

func TestArgumentsAndEnvironmentArriveAsTheyAre(t *testing.T) {
	s := newSupervisor(t)
	args := []string{"0", "a b", "", "$HOME `id` $(id)", "quo'te\"s", "new\nline", "-rf", "*"}
	env := []string{roleEnv + "=vmm", "LANG=C", "SPACE=a b"}
	v := startVMM(t, s, 0, func(c *Command) { c.Args, c.Env = args, env })
	want := self(t) + "\x00" + strings.Join(args, "\x00") + "\x00"
	if b, err := os.ReadFile(procPath(v.Identity().PID, "cmdline")); err != nil || string(b) != want {
		t.Errorf("argv %q (%v), want %q", b, err, want)
	}
	b, err := os.ReadFile(procPath(v.Identity().PID, "environ"))
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]bool{}
	for kv := range strings.SplitSeq(strings.TrimSuffix(string(b), "\x00"), "\x00") {
		got[kv] = true
	}
	for _, kv := range env {
		if !got[kv] {
			t.Errorf("the VMM lacks %q", kv)
		}
		delete(got, kv)
	}
	for kv := range got {
		if !strings.HasPrefix(kv, "_=") && kv != "SHLVL=0" { // bash as /bin/sh cannot be kept from these
			t.Errorf("the VMM got %q, which nobody gave it", kv)
		}
	}
}

func TestTheVMMIsOnItsOwn(t *testing.T) {
	s := newSupervisor(t)
	dir := t.TempDir()
	v := startVMM(t, s, 0, func(c *Command) { c.Dir = dir })
	pid := v.Identity().PID
	if sid, err := unix.Getsid(pid); err != nil || sid != pid {
		t.Errorf("session %d (%v), want its own, %d", sid, err, pid)
	}
	var core unix.Rlimit
	if err := unix.Prlimit(pid, unix.RLIMIT_CORE, nil, &core); err != nil || core.Max != 0 {
		t.Errorf("core file limit %+v (%v), want 0: a core file holds the guest's memory", core, err)
	}
	if cwd, err := os.Readlink(procPath(pid, "cwd")); err != nil || cwd != dir {
		t.Errorf("working directory %s (%v), want %s", cwd, err, dir)
	}
}

func TestTheVMMRunsAsItsUser(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("only root can give a VMM another user")
	}
	s := newSupervisor(t)
	// sleep is used, as the test binary may be where another user cannot reach it.
	c := sleepCommand(t)
	c.UID, c.GID = 54321, 54322
	c.Stderr = filepath.Join(t.TempDir(), "log")
	p, err := s.Start(t.Context(), c, accept)
	if err != nil {
		t.Fatal(err)
	}
	cleanUp(t, p)
	awaitExec(t, p)
	b, err := os.ReadFile(procPath(p.Identity().PID, "status"))
	if err != nil {
		t.Fatal(err)
	}
	fields := map[string]string{}
	for line := range strings.SplitSeq(string(b), "\n") {
		name, value, _ := strings.Cut(line, ":")
		fields[name] = strings.Join(strings.Fields(value), " ")
	}
	for name, want := range map[string]string{
		"Uid":    "54321 54321 54321 54321",
		"Gid":    "54322 54322 54322 54322",
		"Groups": "",
		"CapEff": "0000000000000000",
		"CapPrm": "0000000000000000",
	} {
		if fields[name] != want {
			t.Errorf("%s is %q, want %q", name, fields[name], want)
		}
	}
	if info, err := os.Stat(c.Stderr); err != nil || info.Mode() != 0o600 || info.Sys().(*syscall.Stat_t).Uid != 0 {
		t.Errorf("the log is %v (%v), want 0600 and metald's own", info, err)
	}
}

func TestStderrIsAppendedToAndNoLinkIsFollowed(t *testing.T) {
	s := newSupervisor(t)
	dir := t.TempDir()
	echo, err := exec.LookPath("echo")
	if err != nil {
		t.Skip("there is no echo(1) on this machine")
	}
	c := Command{Path: echo, Args: []string{"hello"}, Stderr: filepath.Join(dir, "log")}
	for range 2 {
		p, err := s.Start(t.Context(), c, accept)
		if err != nil {
			t.Fatal(err)
		}
		awaitExit(t, p)
	}
	if b, err := os.ReadFile(c.Stderr); err != nil || string(b) != "hello\nhello\n" {
		t.Errorf("log %q (%v), want both lines", b, err)
	}
	if err := os.Symlink(c.Stderr, filepath.Join(dir, "link")); err != nil {
		t.Fatal(err)
	}
	c.Stderr = filepath.Join(dir, "link")
	if _, err := s.Start(t.Context(), c, accept); !errors.Is(err, unix.ELOOP) {
		t.Errorf("error %v, want %v", err, unix.ELOOP)
	}
}

// awaitExec waits until p is the VMM.
func awaitExec(t testing.TB, p *Process) {
	t.Helper()
	id := p.Identity()
	eventually(t, "the gate becomes the VMM", func() bool {
		exe, err := statExecutable(procPath(id.PID, "exe"))
		return err == nil && exe == Executable{id.ExeDevice, id.ExeInode}
	})
}

func openFiles(t testing.TB) int {
	t.Helper()
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(entries)
}

func copyFile(from, to string) error {
	b, err := os.ReadFile(from)
	if err != nil {
		return err
	}
	return os.WriteFile(to, b, 0o700)
}
