package cgroup_test

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/unkeyed/unkey/go/deploy/metald/internal/host/cgroup"
)

func TestLife(t *testing.T) {
	eachRoot(t, func(t *testing.T, root *cgroup.Root) {
		parent := openParent(t, root)
		g := makeGroup(t, parent, cgroup.Limits{})
		if g.Name() != "vm" || !slices.Equal(list(t, parent), []string{"vm"}) {
			t.Errorf("made %q, listed %q", g.Name(), list(t, parent))
		}
		p := start(t, "exec sleep 1000")
		add(t, g, p)
		p.release(t)
		if got := processes(t, g); !slices.Equal(got, []int{p.pid()}) {
			t.Errorf("%v are in the group, want %d", got, p.pid())
		}
		wantInGroup(t, parent, p.pid())
		p.kill(t)
		p.wait()
		for range 2 { // the second finds nothing, which is no error
			if err := g.Remove(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		if names := list(t, parent); len(names) > 0 {
			t.Errorf("%q is left", names)
		}
	})
}

// wantInGroup asks the kernel where the process is, in as many hierarchies as the group should be in.
func wantInGroup(t *testing.T, parent *cgroup.Parent, pid int) {
	t.Helper()
	in := 0
	name := filepath.Base(parent.Dirs()[0]) + "/vm"
	for line := range strings.Lines(read(t, fmt.Sprintf("/proc/%d", pid), "cgroup") + "\n") {
		if strings.HasSuffix(strings.TrimSpace(line), name) {
			in++
		}
	}
	var made int
	for _, dir := range parent.Dirs() {
		if _, err := os.Stat(dir + "/vm"); err == nil {
			made++
		}
	}
	if in == 0 || in != made {
		t.Errorf("the process is in %d hierarchies, the group in %d", in, made)
	}
}

func TestUsage(t *testing.T) {
	eachRoot(t, func(t *testing.T, root *cgroup.Root) {
		parent := openParent(t, root)
		g := makeGroup(t, parent, cgroup.Limits{})
		if u := usage(t, g); u.CPU == nil || *u.CPU != 0 {
			t.Errorf("before anything ran: %v, want 0", u.CPU)
		}
		p := start(t, "while :; do :; done")
		add(t, g, p)
		p.release(t)
		var last time.Duration
		until(t, "it used 200 ms", func() bool {
			now := *usage(t, g).CPU
			if now < last {
				t.Fatalf("usage fell from %v to %v", last, now)
			}
			last = now
			return now > 200*time.Millisecond
		})
		if (usage(t, g).Memory == nil) == (g.Dir("memory") != "") {
			t.Error("memory must be known exactly where its controller is")
		}
		p.kill(t)
		p.wait()
		final, told := *usage(t, g).CPU, p.cmd.ProcessState.UserTime()+p.cmd.ProcessState.SystemTime()
		if final < last || final > told+told/4 || final < told/2 {
			t.Errorf("the group used %v after %v, its process %v", final, last, told)
		}
		if err := g.Remove(t.Context()); err != nil {
			t.Fatal(err)
		}
		if u, err := g.Usage(); !errors.Is(err, fs.ErrNotExist) || u.CPU != nil || u.Memory != nil {
			t.Errorf("of a group that is gone: %+v, %v; want nothing and ErrNotExist", u, err)
		}
	})
}

func TestMakeRefusesATakenName(t *testing.T) {
	eachRoot(t, func(t *testing.T, root *cgroup.Root) {
		parent := openParent(t, root)
		dirs := parent.Dirs()
		// A group of one hierarchy only is what a crash leaves.
		left := dirs[len(dirs)-1] + "/left"
		if err := os.Mkdir(left, 0o755); err != nil {
			t.Fatal(err)
		}
		makeGroup(t, parent, cgroup.Limits{})
		for _, name := range []string{"vm", "left"} {
			if _, err := parent.Make(name, cgroup.Limits{IO: diskLimit(t, root)}); !errors.Is(err, fs.ErrExist) {
				t.Errorf("made %s a second time: %v", name, err)
			}
			if _, err := parent.Group(name); err != nil {
				t.Errorf("what was there is gone: %v", err)
			}
		}
		for _, dir := range dirs[:len(dirs)-1] {
			if _, err := os.Stat(dir + "/left"); err == nil {
				t.Errorf("the refused Make left %s/left", dir)
			}
		}
		if got := list(t, parent); !slices.Equal(got, []string{"left", "vm"}) {
			t.Errorf("listed %q", got)
		}
		g, err := parent.Group("left")
		if err != nil {
			t.Fatal(err)
		}
		if err := g.Remove(t.Context()); err != nil {
			t.Fatal(err)
		}
		if _, err := parent.Group("left"); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("a group that is gone: %v", err)
		}
	})
}

func TestRemoveWaitsForProcesses(t *testing.T) {
	eachRoot(t, func(t *testing.T, root *cgroup.Root) {
		g := makeGroup(t, openParent(t, root), cgroup.Limits{})
		p := start(t, "exec sleep 1000")
		add(t, g, p)
		short, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
		defer cancel()
		err := g.Remove(short)
		if !errors.Is(err, context.DeadlineExceeded) || !errors.Is(err, unix.EBUSY) || !strings.Contains(err.Error(), fmt.Sprint(p.pid())) {
			t.Errorf("%v, want a deadline, EBUSY and process %d", err, p.pid())
		}
		if got := processes(t, g); len(got) != 1 {
			t.Errorf("Remove left %v alive", got)
		}
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		defer cancel()
		removed := make(chan error)
		go func() { removed <- g.Remove(ctx) }()
		p.kill(t) // and is reaped only after the removal
		if err := <-removed; err != nil {
			t.Error(err)
		}
	})
}

func TestKill(t *testing.T) {
	eachRoot(t, func(t *testing.T, root *cgroup.Root) {
		parent := openParent(t, root)
		g := makeGroup(t, parent, cgroup.Limits{})
		// Children that outlive their parent, and a parent that goes on making more: 4 are always being born.
		p := start(t, "for i in 1 2 3; do sleep 1000 & done; while :; do sh -c : & sh -c : & sh -c : & wait $!; done")
		add(t, g, p)
		p.release(t)
		until(t, "there are many", func() bool { return len(processes(t, g)) >= 4 })
		adopted, err := parent.Group("vm")
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		defer cancel()
		if err := adopted.Kill(ctx); err != nil {
			t.Fatal(err)
		}
		if got := processes(t, g); len(got) > 0 {
			t.Errorf("%v live on", got)
		}
		if status, _ := p.wait(); status.Signal() != unix.SIGKILL {
			t.Errorf("the process ended with %v", status)
		}
		if err := g.Remove(ctx); err != nil {
			t.Error(err)
		}
		if err := g.Kill(ctx); err != nil {
			t.Errorf("kill of what is gone: %v", err)
		}
	})
}

func TestAddRefuses(t *testing.T) {
	eachRoot(t, func(t *testing.T, root *cgroup.Root) {
		g := makeGroup(t, openParent(t, root), cgroup.Limits{})
		p := start(t, "")
		p.kill(t)
		p.wait()
		for _, pid := range []int{0, -1, p.pid()} {
			if err := g.Add(pid); err == nil {
				t.Errorf("added %d", pid)
			}
		}
		if got := processes(t, g); len(got) > 0 {
			t.Errorf("%v got in", got)
		}
	})
}

func TestManyAtOnce(t *testing.T) {
	eachRoot(t, func(t *testing.T, root *cgroup.Root) {
		parent := openParent(t, root)
		const n = 32
		var limits cgroup.Limits
		if hasLimits(root) {
			limits = cgroup.Limits{MemoryBytes: 64 << 20, CPUQuota: 50, PIDs: 16, IO: diskLimit(t, root)}
		}
		children := make([]*process, n)
		for i := range children {
			children[i] = start(t, "exit 7")
		}
		var all sync.WaitGroup
		for i, p := range children {
			all.Go(func() {
				if err := live(t.Context(), parent, fmt.Sprintf("vm-%d", i), limits, p); err != nil {
					t.Error(err)
				}
			})
		}
		all.Wait()
		if names := list(t, parent); len(names) > 0 {
			t.Errorf("%q are left", names)
		}
	})
}

// live is the whole life of one group.
func live(ctx context.Context, parent *cgroup.Parent, name string, limits cgroup.Limits, p *process) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	g, err := parent.Make(name, limits)
	if err != nil {
		return err
	}
	if err := g.Add(p.pid()); err != nil {
		return err
	}
	if err := p.gate.Close(); err != nil {
		return err
	}
	if status, said := p.wait(); status.ExitStatus() != 7 {
		return fmt.Errorf("%s ended with %v: %s", name, status, said)
	}
	if u, err := g.Usage(); err != nil || u.CPU == nil || *u.CPU == 0 {
		return fmt.Errorf("usage of %s: %+v, %w", name, u, err)
	}
	return g.Remove(ctx)
}

func TestParent(t *testing.T) {
	root := findRoot(t)
	for _, name := range []string{"", "/", "/a", "a/", "a//b", "..", "a/../b", "a/.", "a b"} {
		if _, err := root.Open(name); err == nil {
			t.Errorf("opened %q", name)
		}
	}
	top := openParent(t, root)
	name := filepath.Base(top.Dirs()[0]) + "/1a2b3c4d"
	parent, err := root.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	again, err := root.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	makeGroup(t, parent, cgroup.Limits{})
	if got := list(t, again); !slices.Equal(got, []string{"vm"}) {
		t.Errorf("opened again it lists %q", got)
	}
	if err := parent.Remove(t.Context()); err == nil {
		t.Error("removed a subtree with a group in it")
	}
	g, err := again.Group("vm")
	if err != nil {
		t.Fatal(err)
	}
	if err := g.Remove(t.Context()); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := parent.Remove(t.Context()); err != nil {
			t.Error(err)
		}
	}
	if got := list(t, parent); len(got) > 0 {
		t.Errorf("a subtree that is gone lists %q", got)
	}
}

func TestNames(t *testing.T) {
	parent := openParent(t, findRoot(t))
	for _, name := range []string{"", ".", "..", "a/b", "/a", "../a", "a b", "a\n", "a\x00", "\u00e4", strings.Repeat("a", 256)} {
		if _, err := parent.Make(name, cgroup.Limits{}); err == nil {
			t.Errorf("made %q", name)
		}
		if _, err := parent.Group(name); err == nil || errors.Is(err, fs.ErrNotExist) {
			t.Errorf("looked for %q: %v", name, err)
		}
	}
	// Names that the kernel's own files have.
	for _, name := range []string{"cgroup.procs"} {
		if _, err := parent.Make(name, cgroup.Limits{}); !errors.Is(err, fs.ErrExist) {
			t.Errorf("made %q: %v", name, err)
		}
		if _, err := parent.Group(name); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("found %q: %v", name, err)
		}
	}
	for _, name := range []string{"a", "A-1_b.c", "...", strings.Repeat("a", 64)} {
		g, err := parent.Make(name, cgroup.Limits{})
		if err != nil {
			t.Fatal(err)
		}
		if err := g.Remove(t.Context()); err != nil {
			t.Error(err)
		}
	}
}
