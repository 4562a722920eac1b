package vmmprocess

import (
	"errors"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"syscall"
	"testing"

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
	if fds, err := os.ReadDir(procPath(pid, "fd")); err != nil || len(fds) != 3 {
		t.Errorf("it has %d files open (%v), want the standard ones", len(fds), err)
	}
	if env, err := os.ReadFile(procPath(pid, "environ")); err != nil || len(env) != 0 {
		t.Errorf("its environment is %q (%v)", env, err)
	}
}

// Admit sees the process in the gate, before anybody has committed it; its error is the start's.
func TestAdmitComesBeforeCommit(t *testing.T) {
	s := newSupervisor(t)
	full := errors.New("no such cgroup")
	var admitted int
	c := sleepCommand(t)
	c.Admit = func(pid int) error { admitted = pid; return full }
	_, err := s.Start(t.Context(), c, func(types.ProcessIdentity) error {
		t.Error("committed what was not admitted")
		return nil
	})
	if !errors.Is(err, full) || admitted == 0 || alive(admitted) {
		t.Errorf("process %d, alive %v: %v", admitted, alive(admitted), err)
	}
	c.Admit = func(pid int) error { admitted = pid; return nil }
	p, err := s.Start(t.Context(), c, func(id types.ProcessIdentity) error {
		if id.PID != admitted {
			t.Errorf("committed %s, admitted %d", strconv.Itoa(id.PID), admitted)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	cleanUp(t, p)
}
