package cgroup_test

import (
	"errors"
	"io/fs"
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/unkeyed/unkey/go/deploy/metald/internal/host/cgroup"
)

// fakeV2 is a host with a v2 that has these controllers, on plain files.
func fakeV2(t *testing.T, controllers ...string) (*cgroup.FakeV2, *cgroup.Root) {
	t.Helper()
	base := t.TempDir()
	fake, err := cgroup.NewFakeV2(base+"/sys/fs/cgroup", controllers...)
	if err != nil {
		t.Fatal(err)
	}
	root, err := cgroup.FindFake(v2, base, fake)
	if err != nil {
		t.Fatal(err)
	}
	return fake, root
}

func open(t *testing.T, root *cgroup.Root) *cgroup.Parent {
	t.Helper()
	parent, err := root.Open("metald/1a2b")
	if err != nil {
		t.Fatal(err)
	}
	return parent
}

var everything = cgroup.Limits{
	MemoryBytes: 300 << 20, CPUQuota: 250, PIDs: 64,
	IO: []cgroup.IOLimit{{Major: 8, Minor: 16, ReadBPS: 1 << 20, WriteIOPS: 500}, {Major: 259, WriteBPS: 7}, {Major: 7}},
}

func TestV2Limits(t *testing.T) {
	fake, root := fakeV2(t, "cpuset", "cpu", "io", "memory", "pids")
	parent := open(t, root)
	for _, dir := range []string{"", "/metald", "/metald/1a2b"} {
		if got := read(t, fake.Root+dir, "cgroup.subtree_control"); got != "cpu memory io pids" {
			t.Errorf("below %q there is %q", dir, got)
		}
	}
	g := makeGroup(t, parent, everything)
	dir := fake.Root + "/metald/1a2b/vm"
	for file, want := range map[string]string{
		"memory.max": "314572800", "memory.swap.max": "0", "cpu.max": "250000 100000", "pids.max": "64",
		"io.max": "259:0 wbps=7", // of the last write; the kernel keeps one line per device
	} {
		if got := read(t, dir, file); got != want {
			t.Errorf("%s is %q, want %q", file, got, want)
		}
	}
	write(t, dir+"/memory.current", "4096\n")
	if u := usage(t, g); *u.CPU != 1500*time.Microsecond || *u.Memory != 4096 {
		t.Errorf("used %v and %d", *u.CPU, *u.Memory)
	}
	if err := g.Remove(t.Context()); err != nil {
		t.Error(err)
	}
	if err := parent.Remove(t.Context()); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(fake.Root + "/metald"); err != nil {
		t.Errorf("what others may have theirs in is gone: %v", err)
	}
}

func TestV2UnknownIsNotZero(t *testing.T) {
	fake, root := fakeV2(t, "cpu", "memory")
	g := makeGroup(t, open(t, root), cgroup.Limits{})
	dir := fake.Root + "/metald/1a2b/vm"
	for _, text := range []string{"", "user_usec 5\n", "usage_usec \n", "usage_usec -1\n", "usage_usec 9223372036854775807\n", "usage_usec many\n"} {
		write(t, dir+"/cpu.stat", text)
		write(t, dir+"/memory.current", "max\n")
		if u, err := g.Usage(); err == nil || u.CPU != nil || u.Memory != nil {
			t.Errorf("of %q: %+v, %v", text, u, err)
		}
	}
	write(t, dir+"/memory.current", "1\n")
	if u, err := g.Usage(); err == nil || u.CPU != nil || u.Memory == nil {
		t.Errorf("what is known is lost: %+v, %v", u, err)
	}
}

// A controller that is not to be had is told of when a limit needs it, by name and with the reason, and not before.
func TestV2MissingController(t *testing.T) {
	busy := func(t *testing.T, fake *cgroup.FakeV2) {
		write(t, fake.Root+"/metald/cgroup.procs", "17\n")
		write(t, fake.Root+"/metald/cgroup.controllers", "cpu memory io pids")
		write(t, fake.Root+"/metald/cgroup.subtree_control", "")
	}
	for _, tc := range []struct {
		name        string
		controllers string
		prepare     func(t *testing.T, fake *cgroup.FakeV2)
		limits      cgroup.Limits
		want        []string
	}{
		{"the host has none of pids", "cpu memory io", nil, cgroup.Limits{PIDs: 1}, []string{"controller pids", "/sys/fs/cgroup has no such"}},
		{"the host has none of io", "cpu memory", nil, cgroup.Limits{IO: []cgroup.IOLimit{{Major: 8, ReadBPS: 1}}}, []string{"controller io"}},
		{"a group on the way has processes", "cpu memory io pids", busy, cgroup.Limits{MemoryBytes: 1 << 20}, []string{"controller memory", "processes of its own", "busy"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			fake, root := fakeV2(t, strings.Fields(tc.controllers)...)
			if tc.prepare != nil {
				tc.prepare(t, fake)
			}
			parent := open(t, root)
			_, err := parent.Make("vm", tc.limits)
			if err == nil {
				t.Fatal("made a group without its limit")
			}
			for _, want := range tc.want {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("%q does not say %q", err, want)
				}
			}
			if names := list(t, parent); len(names) > 0 {
				t.Errorf("%q is left", names)
			}
			g := makeGroup(t, parent, cgroup.Limits{})
			if u := usage(t, g); u.CPU == nil {
				t.Error("CPU time is unknown, though v2 counts it without a controller")
			}
		})
	}
}

func TestV2MakeIsAllOrNothing(t *testing.T) {
	for _, file := range []string{"memory.max", "memory.swap.max", "cpu.max", "pids.max", "io.max"} {
		fake, root := fakeV2(t, "cpu", "io", "memory", "pids")
		parent := open(t, root)
		fake.Fail[file] = unix.EINVAL
		if _, err := parent.Make("vm", everything); !errors.Is(err, unix.EINVAL) || !strings.Contains(err.Error(), file) {
			t.Errorf("%v, want EINVAL of %s", err, file)
		}
		if names := list(t, parent); len(names) > 0 {
			t.Errorf("%s failed and %q is left", file, names)
		}
	}
}

func TestV2KernelsWithout(t *testing.T) {
	fake, root := fakeV2(t, "cpu", "io", "memory", "pids")
	parent := open(t, root)
	fake.Files["memory"] = []string{"memory.max", "memory.current"} // no accounting of swap
	makeGroup(t, parent, everything)
	fake.Files["io"] = []string{"io.stat"} // no throttling
	if _, err := parent.Make("other", everything); !errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), "io has no io.max") {
		t.Errorf("%v, want that there is no io.max", err)
	}
}
