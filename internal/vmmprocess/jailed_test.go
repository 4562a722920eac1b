package vmmprocess

import (
	"errors"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/unkeyed/unkey/go/deploy/metald/internal/backend/types"
)

// playJailer becomes the file in its first argument once file FirstFile+1 says so, as a jailer becomes a VMM.
func playJailer() {
	os.NewFile(FirstFile, "ready").WriteString("jail")
	if _, err := io.ReadFull(os.NewFile(FirstFile+1, "turn"), make([]byte, 1)); err != nil {
		panic(err)
	}
	panic(syscall.Exec(os.Args[1], []string{os.Args[1], "3600"}, nil))
}

func needRoot(t *testing.T) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("only root can do this")
	}
}

// jailer starts one whose VMM is a copy of sleep(1), and returns when it waits for its turn.
func jailer(t *testing.T, s *Supervisor) (p *Process, vmm string, turn *os.File) {
	t.Helper()
	vmm = filepath.Join(t.TempDir(), "vmm")
	b, err := os.ReadFile(sleepCommand(t).Path)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(vmm, b, 0o755); err != nil {
		t.Fatal(err)
	}
	becomes, err := statExecutable(vmm)
	if err != nil {
		t.Fatal(err)
	}
	readyR, readyW := pipe(t)
	turnR, turn := pipe(t)
	p, err = s.Start(t.Context(), Command{
		Path: self(t), Args: []string{vmm}, Env: []string{roleEnv + "=jailer"},
		Files: []*os.File{readyW, turnR}, Becomes: &becomes,
	}, accept)
	if err != nil {
		t.Fatal(err)
	}
	cleanUp(t, p)
	readyW.Close()
	turnR.Close()
	if _, err := io.ReadFull(readyR, make([]byte, 4)); err != nil {
		t.Fatalf("the jailer did not come up: %v", err)
	}
	return p, vmm, turn
}

// The process is the same one from the gate to the VMM, and a metald that adopts it on the way waits for the VMM.
func TestAdoptOnTheWayThroughAJailer(t *testing.T) {
	s := newSupervisor(t)
	p, vmm, turn := jailer(t, s)
	adopted := make(chan error, 1)
	go func() {
		again, err := newIdle(t).Adopt(p.Identity())
		if err == nil {
			again.Release()
		}
		adopted <- err
	}()
	select {
	case err := <-adopted:
		t.Fatalf("adopted while it was a jailer: %v", err)
	default:
	}
	if _, err := turn.Write([]byte{1}); err != nil {
		t.Fatal(err)
	}
	if err := <-adopted; err != nil {
		t.Fatal(err)
	}
	want, err := statExecutable(vmm)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := statExecutable(procPath(p.Identity().PID, "exe")); err != nil || got != want {
		t.Errorf("it runs %+v (%v), want %+v", got, err, want)
	}
}

// newIdle is idleSupervisor for a goroutine.
func newIdle(t *testing.T) *Supervisor {
	s, err := New(discard)
	if err != nil {
		t.Error(err)
		return nil
	}
	t.Cleanup(func() { s.poller.Close() })
	return s
}

// A jailer that became something else than what was committed may not live.
func TestAJailedStrangerIsPutDown(t *testing.T) {
	s := newSupervisor(t)
	p, _, turn := jailer(t, s)
	if _, err := turn.Write([]byte{1}); err != nil {
		t.Fatal(err)
	}
	id := p.Identity()
	id.ExeInode++
	eventually(t, "the jailer has become the VMM", func() bool {
		exe, err := statExecutable(procPath(id.PID, "exe"))
		return err == nil && exe.Inode != id.ViaInode
	})
	if _, err := idleSupervisor(t).Adopt(id); !errors.Is(err, types.ErrGone) {
		t.Errorf("adopt: %v", err)
	}
	awaitExit(t, p)
}

func TestNamespacesOfItsOwn(t *testing.T) {
	needRoot(t)
	s := newSupervisor(t)
	v := startVMM(t, s, 7, func(c *Command) { c.NewPIDNamespace, c.NewNetNamespace = true, true })
	for _, ns := range []string{"pid", "net"} {
		own, err := os.Readlink("/proc/self/ns/" + ns)
		if err != nil {
			t.Fatal(err)
		}
		its, err := os.Readlink(procPath(v.Identity().PID, "ns/"+ns))
		if err != nil || its == own {
			t.Errorf("%s namespace %q (%v), metald's is %q", ns, its, err, own)
		}
	}
	v.hold.Close()
	if status, known := awaitExit(t, v.Process); !known || status.ExitStatus() != 7 {
		t.Errorf("status %v, known %v", status, known)
	}
}

// The VMM's user may not be able to reach the directory that it starts in by its path.
func TestStartsInADirectoryThatItsUserCannotReach(t *testing.T) {
	needRoot(t)
	closed := filepath.Join(t.TempDir(), "closed")
	dir := filepath.Join(closed, "root")
	if err := errors.Join(os.Mkdir(closed, 0o700), os.Mkdir(dir, 0o700), os.Chown(dir, 700_001, 700_001)); err != nil {
		t.Fatal(err)
	}
	root, err := os.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	s := newSupervisor(t)
	c := sleepCommand(t)
	c.Root, c.UID, c.GID = root, 700_001, 700_001
	passed, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	defer passed.Close()
	c.Files = []*os.File{passed}
	c.MaxOpenFiles = 99
	p, err := s.Start(t.Context(), c, accept)
	if err != nil {
		t.Fatal(err)
	}
	cleanUp(t, p)
	pid := p.Identity().PID
	eventually(t, "the VMM runs", func() bool {
		exe, err := statExecutable(procPath(pid, "exe"))
		return err == nil && exe.Inode == p.Identity().ExeInode
	})
	if cwd, err := os.Readlink(procPath(pid, "cwd")); err != nil || cwd != dir {
		t.Errorf("it is in %q (%v), want %q", cwd, err, dir)
	}
	if fds, err := os.ReadDir(procPath(pid, "fd")); err != nil || len(fds) != 4 {
		t.Errorf("it has %d files open (%v), want the standard ones and what it was given", len(fds), err)
	}
	if got, err := os.Readlink(procPath(pid, "fd/"+strconv.Itoa(FirstFileAtRoot))); err != nil || got != os.DevNull {
		t.Errorf("as the file that it was given it has %q (%v)", got, err)
	}
	if limits, err := os.ReadFile(procPath(pid, "limits")); err != nil || !regexp.MustCompile(`Max open files +99 +99 `).Match(limits) {
		t.Errorf("its limits are %s (%v)", limits, err)
	}
	if env, err := os.ReadFile(procPath(pid, "environ")); err != nil || len(env) != 0 {
		t.Errorf("its environment is %q (%v)", env, err)
	}
}

// The gate joins its groups before it asks for leave, and is none of the VMM where it cannot.
func TestGateJoinsFirst(t *testing.T) {
	s := newSupervisor(t)
	dir := t.TempDir()
	tasks := filepath.Join(dir, "tasks")
	c := sleepCommand(t)
	c.Joins = []string{tasks, filepath.Join(dir, "a b")}
	for _, file := range c.Joins {
		if err := os.WriteFile(file, nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	p, err := s.Start(t.Context(), c, accept)
	if err != nil {
		t.Fatal(err)
	}
	cleanUp(t, p)
	awaitExec(t, p)
	for _, file := range c.Joins {
		if wrote, err := os.ReadFile(file); err != nil || strings.TrimSpace(string(wrote)) != "0" {
			t.Errorf("%s: %q, %v", file, wrote, err)
		}
	}

	c.Joins = []string{filepath.Join(dir, "none", "tasks")}
	c.Stderr = filepath.Join(dir, "stderr")
	p, err = s.Start(t.Context(), c, accept)
	if err != nil {
		t.Fatal(err)
	}
	select {
	case <-p.Exited():
	case <-time.After(limit):
		t.Fatal("a VMM runs outside of its group")
	}
	if status, known := p.Status(); !known || status.ExitStatus() != 126 && status.ExitStatus() != 2 {
		t.Errorf("it ended with %v", status)
	}
	if said, err := os.ReadFile(c.Stderr); err != nil || !strings.Contains(string(said), "none/tasks") {
		t.Errorf("it said %q, %v", said, err)
	}
}

// A process is born in a group of v2, and never anywhere else.
func TestBornInACgroup(t *testing.T) {
	group := v2Group(t)
	s := newSupervisor(t)
	c := sleepCommand(t)
	var err error
	if c.BornIn, err = os.Open(group); err != nil {
		t.Fatal(err)
	}
	defer c.BornIn.Close()
	p, err := s.Start(t.Context(), c, func(id types.ProcessIdentity) error {
		in, err := os.ReadFile(filepath.Join(group, "cgroup.procs"))
		if err != nil || strings.TrimSpace(string(in)) != strconv.Itoa(id.PID) {
			t.Errorf("when it is committed %q is in the group (%v), want %d", in, err, id.PID)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	cleanUp(t, p)
}

// v2Group makes a cgroup that is removed when the processes of the test have ended.
func v2Group(t *testing.T) string {
	t.Helper()
	for _, root := range []string{"/sys/fs/cgroup", "/sys/fs/cgroup/unified"} {
		if _, err := os.Stat(root + "/cgroup.procs"); err != nil {
			continue
		}
		dir, err := os.MkdirTemp(root, "metald-test")
		if err != nil {
			t.Skipf("no cgroup can be made: %v", err)
		}
		t.Cleanup(func() {
			eventually(t, "the cgroup is empty", func() bool { return os.Remove(dir) == nil })
		})
		return dir
	}
	t.Skip("cgroup v2 is not mounted on this machine")
	return ""
}
