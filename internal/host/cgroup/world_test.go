package cgroup_test

import (
	"context"
	"crypto/rand"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/unkeyed/unkey/go/deploy/metald/internal/host/cgroup"
)

// patience is how long a test waits for what should come at once.
const patience = 30 * time.Second

// eachRoot runs a test of what needs no limits on what Find finds, and where that is v1, on v2 too: hybrid hosts
// have one without controllers.
func eachRoot(t *testing.T, test func(t *testing.T, root *cgroup.Root)) {
	t.Run("the one that is found", func(t *testing.T) { test(t, findRoot(t)) })
	t.Run("v2 without controllers", func(t *testing.T) {
		if findRoot(t).Version() == 2 {
			t.Skip("v2 has controllers on this host")
		}
		for _, dir := range []string{"/sys/fs/cgroup/unified", "/sys/fs/cgroup"} {
			var st unix.Statfs_t
			if err := unix.Statfs(dir, &st); err == nil && st.Type == unix.CGROUP2_SUPER_MAGIC {
				test(t, cgroup.V2At(dir))
				return
			}
		}
		t.Skip("no v2 hierarchy is mounted below /sys/fs/cgroup")
	})
}

func findRoot(t *testing.T) *cgroup.Root {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("only root may make cgroups")
	}
	root, err := cgroup.Find()
	if err != nil {
		t.Skip(err)
	}
	return root
}

// openParent opens a subtree of the test's own, and at the end removes it with all that is in it.
func openParent(t *testing.T, root *cgroup.Root) *cgroup.Parent {
	t.Helper()
	parent, err := root.Open("metald-test-" + rand.Text())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		for _, name := range list(t, parent) {
			g, err := parent.Group(name)
			if err == nil {
				err = g.Kill(ctx)
			}
			if err == nil {
				err = g.Remove(ctx)
			}
			if err != nil {
				t.Error(err)
			}
		}
		if err := parent.Remove(ctx); err != nil {
			t.Error(err)
		}
		for _, dir := range parent.Dirs() {
			if _, err := os.Stat(dir); !os.IsNotExist(err) {
				t.Errorf("%s is left (%v)", dir, err)
			}
		}
	})
	return parent
}

func makeGroup(t *testing.T, parent *cgroup.Parent, limits cgroup.Limits) *cgroup.Group {
	t.Helper()
	g, err := parent.Make("vm", limits)
	if err != nil {
		t.Fatal(err)
	}
	return g
}

func list(t *testing.T, parent *cgroup.Parent) []string {
	t.Helper()
	names, err := parent.List()
	if err != nil {
		t.Fatal(err)
	}
	return names
}

// process is a child that waits at a gate before it does what its script says.
type process struct {
	cmd  *exec.Cmd
	gate io.WriteCloser
}

func start(t *testing.T, script string) *process {
	t.Helper()
	return startCmd(t, exec.Command("/bin/sh", "-c", "read gate\n"+script))
}

func startCmd(t *testing.T, cmd *exec.Cmd) *process {
	t.Helper()
	p := &process{cmd: cmd}
	gate, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	p.gate = gate
	// A file, not a buffer: Wait must not wait for the children that have it too.
	stderr, err := os.Create(filepath.Join(t.TempDir(), "stderr"))
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stderr = stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if cmd.ProcessState == nil {
			_ = cmd.Process.Kill() // it may have ended
			p.wait()
		}
		stderr.Close()
	})
	return p
}

func (p *process) pid() int { return p.cmd.Process.Pid }

// release opens the gate.
func (p *process) release(t *testing.T) {
	t.Helper()
	if _, err := io.WriteString(p.gate, "\n"); err != nil {
		t.Fatal(err)
	}
}

func (p *process) kill(t *testing.T) {
	t.Helper()
	if err := p.cmd.Process.Signal(unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
}

// wait reaps the process and returns how it ended and what it said.
func (p *process) wait() (syscall.WaitStatus, string) {
	_ = p.cmd.Wait() // how it ended is in the state
	said, _ := os.ReadFile(p.cmd.Stderr.(*os.File).Name())
	return p.cmd.ProcessState.Sys().(syscall.WaitStatus), string(said)
}

func add(t *testing.T, g *cgroup.Group, p *process) {
	t.Helper()
	if err := g.Add(p.pid()); err != nil {
		t.Fatal(err)
	}
}

func processes(t *testing.T, g *cgroup.Group) []int {
	t.Helper()
	pids, err := g.Processes()
	if err != nil {
		t.Fatal(err)
	}
	return pids
}

func usage(t *testing.T, g *cgroup.Group) cgroup.Usage {
	t.Helper()
	u, err := g.Usage()
	if err != nil {
		t.Fatal(err)
	}
	return u
}

// until looks again and again until it is so.
func until(t *testing.T, what string, so func() bool) {
	t.Helper()
	for end := time.Now().Add(patience); !so(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("still not so: %s", what)
		}
	}
}

// field is the value of a key in a file of "key value" lines, "" without.
func field(t *testing.T, dir, file, key string) string {
	t.Helper()
	for line := range strings.Lines(read(t, dir, file)) {
		if words := strings.Fields(line); len(words) == 2 && words[0] == key {
			return words[1]
		}
	}
	return ""
}

func read(t *testing.T, dir, file string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(dir, file))
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(text))
}

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}
