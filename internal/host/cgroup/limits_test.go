package cgroup_test

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/unkeyed/unkey/go/deploy/metald/internal/host/cgroup"
)

// hogVar tells the test binary to be a process that wants more memory than it may have.
const hogVar = "METALD_TEST_HOG"

func TestMain(m *testing.M) {
	if os.Getenv(hogVar) != "" {
		hog()
	}
	// Orphans of killed groups are reaped here: not every init of a container does it.
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		panic(err)
	}
	code := m.Run()
	for err := error(nil); err == nil || errors.Is(err, unix.EINTR); {
		var pid int
		if pid, err = unix.Wait4(-1, nil, unix.WNOHANG, nil); pid == 0 {
			break // what lives on is a test's failure, and was reported
		}
	}
	os.Exit(code)
}

// hog waits at the gate and then touches 256 MiB. That it ends well says that nothing held it back.
func hog() {
	_, _ = os.Stdin.Read(make([]byte, 1))
	memory := make([]byte, 256<<20)
	for i := 0; i < len(memory); i += 1 << 10 {
		memory[i] = 1
	}
	os.Exit(0)
}

func hasLimits(root *cgroup.Root) bool {
	found, err := cgroup.Find()
	return err == nil && found.Version() == root.Version()
}

// diskLimit is a limit for the disk of the test's files, none where there is no disk or no way to limit it.
func diskLimit(t *testing.T, root *cgroup.Root) []cgroup.IOLimit {
	t.Helper()
	if !hasLimits(root) {
		return nil
	}
	major, minor, err := cgroup.DeviceOf(t.TempDir())
	if errors.Is(err, cgroup.ErrNoDevice) {
		return nil
	}
	if err != nil {
		t.Fatal(err)
	}
	return []cgroup.IOLimit{{Major: major, Minor: minor, ReadBPS: 100 << 20, WriteBPS: 90 << 20, ReadIOPS: 800, WriteIOPS: 700}}
}

func TestMemoryLimit(t *testing.T) {
	g := makeGroup(t, openParent(t, findRoot(t)), cgroup.Limits{MemoryBytes: 32 << 20})
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), hogVar+"=1")
	p := startCmd(t, cmd)
	add(t, g, p)
	p.release(t)
	if status, said := p.wait(); status.Signal() != unix.SIGKILL {
		t.Fatalf("ended with %v, want the OOM killer's SIGKILL: %s", status, said)
	}
	file := "memory.events"
	if findRoot(t).Version() == 1 {
		file = "memory.oom_control"
	}
	if got := field(t, g.Dir("memory"), file, "oom_kill"); got != "1" {
		t.Errorf("%s counts %q kills in the group, want 1", file, got)
	}
	if used := usage(t, g).Memory; used == nil || *used > 32<<20 {
		t.Errorf("%v bytes in use", used)
	}
	if err := g.Remove(t.Context()); err != nil {
		t.Error(err)
	}
}

func TestPIDLimit(t *testing.T) {
	g := makeGroup(t, openParent(t, findRoot(t)), cgroup.Limits{PIDs: 4})
	p := start(t, "for i in 1 2 3 4 5 6 7 8; do sleep 1000 & done")
	add(t, g, p)
	p.release(t)
	status, said := p.wait()
	if status.ExitStatus() == 0 || !strings.Contains(said, "fork") {
		t.Errorf("the shell ended with %v and said %q, want that it cannot fork", status, said)
	}
	if got := processes(t, g); len(got) != 3 {
		t.Errorf("%v live, want the 3 children that fit", got)
	}
}

func TestCPULimit(t *testing.T) {
	g := makeGroup(t, openParent(t, findRoot(t)), cgroup.Limits{CPUQuota: 10})
	p := start(t, "while :; do :; done")
	add(t, g, p)
	p.release(t)
	until(t, "it was held back", func() bool {
		n := field(t, g.Dir("cpu"), "cpu.stat", "nr_throttled")
		return n != "" && n != "0"
	})
}

func TestIOLimit(t *testing.T) {
	root := findRoot(t)
	limits := diskLimit(t, root)
	if limits == nil {
		t.Skip("the directory of temporary files is on no block device")
	}
	g := makeGroup(t, openParent(t, root), cgroup.Limits{IO: limits})
	dev := fmt.Sprintf("%d:%d ", limits[0].Major, limits[0].Minor)
	if root.Version() == 2 {
		want := dev + "rbps=104857600 wbps=94371840 riops=800 wiops=700"
		if got := read(t, g.Dir("io"), "io.max"); got != want {
			t.Errorf("io.max is %q, want %q", got, want)
		}
		return
	}
	for file, want := range map[string]string{
		"read_bps": "104857600", "write_bps": "94371840", "read_iops": "800", "write_iops": "700",
	} {
		if got := read(t, g.Dir("blkio"), "blkio.throttle."+file+"_device"); got != dev+want {
			t.Errorf("%s is %q, want %q", file, got, dev+want)
		}
	}
}

// What the kernel refuses at the very last leaves nothing of what it took.
func TestMakeIsAllOrNothing(t *testing.T) {
	parent := openParent(t, findRoot(t))
	_, err := parent.Make("vm", cgroup.Limits{
		MemoryBytes: 64 << 20, CPUQuota: 100, PIDs: 10,
		IO: []cgroup.IOLimit{{Major: 8, Minor: 1<<20 - 1, ReadBPS: 1 << 20}},
	})
	if !errors.Is(err, unix.ENODEV) || !strings.Contains(err.Error(), "8:1048575") {
		t.Errorf("%v, want ENODEV of 8:1048575", err)
	}
	if names := list(t, parent); len(names) > 0 {
		t.Errorf("%q is left", names)
	}
}

func TestLimitsThatMeanNothing(t *testing.T) {
	parent := openParent(t, findRoot(t))
	for name, limits := range map[string]cgroup.Limits{
		"less than a page": {MemoryBytes: 4095},
		"one disk twice":   {IO: []cgroup.IOLimit{{Major: 8, ReadBPS: 1 << 20}, {Major: 8, WriteBPS: 1 << 20}}},
	} {
		if _, err := parent.Make("vm", limits); err == nil {
			t.Errorf("%s was taken", name)
		}
	}
}
