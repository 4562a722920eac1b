package jailer_test

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/unkeyed/unkey/go/deploy/metald/internal/backend/stubvmm"
)

const patience = 20 * time.Second

// built are the stand-ins, once for all tests.
var built = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "stub")
	if err != nil {
		return "", err
	}
	if _, err := stubvmm.BuildFirecrackerIn(dir); err != nil {
		return "", err
	}
	_, err = stubvmm.BuildJailerIn(dir)
	return dir, err
})

func TestMain(m *testing.M) {
	code := m.Run()
	if dir, err := built(); err == nil {
		os.RemoveAll(dir)
	}
	os.Exit(code)
}

// each runs a test with the stand-in, and with the real jailer if METALD_TEST_JAILER names it.
func each(t *testing.T, test func(t *testing.T, jailer string)) {
	t.Run("stub", func(t *testing.T) { test(t, filepath.Join(binaries(t), "jailer")) })
	t.Run("real", func(t *testing.T) {
		real := os.Getenv("METALD_TEST_JAILER")
		if real == "" {
			t.Skip("no METALD_TEST_JAILER: the path of the jailer 1.16.1 is not given")
		}
		test(t, real)
	})
}

func binaries(t testing.TB) string {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("the jailer needs root")
	}
	dir, err := built()
	must(t, err)
	return dir
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// base makes a directory for jails, and a copy of the stand-in for Firecracker beside it.
func base(t *testing.T) (dir, vmm string) {
	t.Helper()
	parent, err := os.MkdirTemp("", "j")
	must(t, err)
	t.Cleanup(func() { os.RemoveAll(parent) })
	dir, vmm = filepath.Join(parent, "jails"), filepath.Join(parent, "firecracker")
	must(t, os.Mkdir(dir, 0o755))
	must(t, os.Link(filepath.Join(binaries(t), "firecracker"), vmm))
	return dir, vmm
}

// TestRefusals are command lines that come to nothing.
func TestRefusals(t *testing.T) {
	with := func(pairs ...string) func(dir, vmm string) []string {
		return func(dir, vmm string) []string {
			args := map[string]string{"--id": "a", "--exec-file": vmm, "--uid": "12345", "--gid": "12345", "--chroot-base-dir": dir}
			var more []string
			for i := 0; i+1 < len(pairs); i += 2 {
				switch value := strings.NewReplacer("$DIR", dir, "$VMM", vmm).Replace(pairs[i+1]); {
				case value == "-":
					delete(args, pairs[i])
				case pairs[i][0] == '+':
					more = append(more, "-"+pairs[i][1:], value)
				default:
					args[pairs[i]] = value
				}
			}
			var list []string
			for name, value := range args {
				list = append(list, name, value)
			}
			return append(list, more...)
		}
	}
	tests := map[string]struct {
		args func(dir, vmm string) []string
		want string
	}{
		"no id":             {with("--id", "-"), "Failed to parse arguments: Argument 'id' required, but not found."},
		"no exec":           {with("--exec-file", "-"), "Failed to parse arguments: Argument 'exec-file' required, but not found."},
		"unknown":           {with("--colour", "red"), "Failed to parse arguments: Found argument 'colour' which wasn't expected, or isn't valid in this context."},
		"repeated":          {with("+-id", "b"), "Failed to parse arguments: The argument 'id' was provided more than once."},
		"bad id":            {with("--id", "a/b"), "Invalid instance ID: Invalid char (/) at position 1"},
		"dots":              {with("--id", ".."), "Invalid instance ID: Invalid char (.) at position 0"},
		"long id":           {with("--id", strings.Repeat("a", 65)), "Invalid instance ID: Invalid len (65);  the length must be between 1 and 64"},
		"no such exec":      {with("--exec-file", "/none/x"), "Failed to canonicalize path /none/x: No such file or directory (os error 2)"},
		"exec is directory": {with("--exec-file", "$DIR"), "$DIR is not a file"},
		"no such base":      {with("--chroot-base-dir", "/none/x"), "Failed to canonicalize path /none/x: No such file or directory (os error 2)"},
		"base is file":      {with("--chroot-base-dir", "$VMM"), "$VMM is not a directory"},
		"uid by name":       {with("--uid", "root"), "Invalid uid: root"},
		"uid negative":      {with("--uid", "-1"), "Invalid uid: -1"},
		"gid too large":     {with("--gid", "4294967296"), "Invalid gid: 4294967296"},
		"parent absolute":   {with("--parent-cgroup", "/a"), "Parent cgroup path is invalid. Path should not be absolute or contain '..' or '.'"},
		"parent climbs":     {with("--parent-cgroup", "a/../b"), "Parent cgroup path is invalid. Path should not be absolute or contain '..' or '.'"},
		"cgroup version":    {with("--cgroup-version", "two"), "two is an invalid cgroup version specifier"},
		"cgroup version 3":  {with("--cgroup-version", "3", "--cgroup", "cpu.shares=2"), "Hierarchy not found: No hierarchy found for this cgroup version."},
		"cgroup no value":   {with("--cgroup", "cpu.shares"), "Invalid format for cgroups: cpu.shares"},
		"cgroup empty":      {with("--cgroup", "cpu.shares="), "Invalid format for cgroups: cpu.shares="},
		"cgroup two values": {with("--cgroup", "io.max=8:0 rbps=1"), "Invalid format for cgroups: io.max=8:0 rbps=1"},
		"cgroup climbs":     {with("--cgroup", "../cpu.shares=1"), "Cgroup invalid file: ../cpu.shares=1"},
		"cgroup no dot":     {with("--cgroup", "shares=1"), "Cgroup invalid file: shares"},
		"cgroup unknown":    {with("--cgroup", "colour.shares=1"), "Controller colour is unavailable"},
		"limit no value":    {with("--resource-limit", "fsize"), "Invalid format for resources limits: fsize"},
		"limit unknown":     {with("--resource-limit", "colour=1"), "Invalid resource argument: colour"},
		"limit bad":         {with("--resource-limit", "fsize=big"), "Invalid limit value for resource: big: invalid digit found in string"},
		"limit empty":       {with("--resource-limit", "fsize="), "Invalid limit value for resource: : cannot parse integer from empty string"},
		"limit large":       {with("--resource-limit", "fsize=99999999999999999999"), "Invalid limit value for resource: 99999999999999999999: number too large to fit in target type"},
		"no such netns":     {with("--netns", "/none/x"), "Failed to open file /none/x: No such file or directory (os error 2)"},
		"netns is file":     {with("--netns", "$VMM"), "Failed to join network namespace: netns: Invalid argument (os error 22)"},
	}
	each(t, func(t *testing.T, jailer string) {
		for name, tt := range tests {
			t.Run(name, func(t *testing.T) {
				dir, vmm := base(t)
				cmd := exec.Command(jailer, tt.args(dir, vmm)...)
				var stderr strings.Builder
				cmd.Stderr = &stderr
				err := cmd.Run()
				var exit *exec.ExitError
				if !errors.As(err, &exit) || exit.ExitCode() != 1 {
					t.Errorf("it ends with %v", err)
				}
				said, debug, _ := strings.Cut(stderr.String(), "\n")
				want := strings.NewReplacer("$DIR", dir, "$VMM", vmm).Replace(tt.want)
				if said != want {
					t.Errorf("it says %q, want %q", said, want)
				}
				if !strings.HasPrefix(debug, "Error: ") {
					t.Errorf("and then %q", debug)
				}
			})
		}
	})
}

func TestVersion(t *testing.T) {
	each(t, func(t *testing.T, jailer string) {
		out, err := exec.Command(jailer, "--version").Output()
		if err != nil || string(out) != "Jailer v1.16.1\n\n" {
			t.Errorf("%q, %v", out, err)
		}
	})
}

const uid, gid = 54321, 54322

// jailed is a Firecracker in a jail.
type jailed struct {
	cmd  *exec.Cmd
	root string
	err  *os.File // its standard error, a file: a pipe would be waited for
}

// said is what is on standard error.
func (j *jailed) said(t *testing.T) string {
	t.Helper()
	text, err := os.ReadFile(j.err.Name())
	must(t, err)
	return string(text)
}

func launch(t *testing.T, jailer, dir, vmm string, args ...string) *jailed {
	t.Helper()
	stderr, err := os.CreateTemp(filepath.Dir(vmm), "stderr")
	must(t, err)
	defer stderr.Close()
	j := &jailed{root: filepath.Join(dir, filepath.Base(vmm), "a-1", "root"), err: stderr}
	args = append([]string{"--id", "a-1", "--exec-file", vmm, "--uid", strconv.Itoa(uid), "--gid", strconv.Itoa(gid), "--chroot-base-dir", dir}, args...)
	j.cmd = exec.Command(jailer, args...)
	j.cmd.Stderr = j.err
	extra, err := os.Open(os.DevNull)
	must(t, err)
	defer extra.Close()
	j.cmd.ExtraFiles = []*os.File{extra, extra}
	must(t, j.cmd.Start())
	t.Cleanup(func() {
		_ = j.cmd.Process.Kill()
		_ = j.cmd.Wait()
	})
	return j
}

func (j *jailed) await(t *testing.T) {
	t.Helper()
	for end := time.Now().Add(patience); ; time.Sleep(time.Millisecond) {
		if _, err := os.Stat(filepath.Join(j.root, "run/firecracker.socket")); err == nil {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("no API after %s: %s", patience, j.said(t))
		}
	}
}

func (j *jailed) proc(t *testing.T, name string) string {
	t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/%s", j.cmd.Process.Pid, name))
	must(t, err)
	return string(text)
}

func TestJail(t *testing.T) {
	each(t, func(t *testing.T, jailer string) {
		dir, vmm := base(t)
		j := launch(t, jailer, dir, vmm, "--resource-limit", "fsize=1234567", "--", "--level", "Warn")
		j.await(t)
		j.checkTree(t)
		pid := strconv.Itoa(j.cmd.Process.Pid)
		text, err := os.ReadFile(filepath.Join(j.root, "firecracker.pid"))
		if err != nil || string(text) != pid {
			t.Errorf("pid file %q, %v; it is %s", text, err, pid)
		}
		argv := strings.Split(strings.TrimSuffix(j.proc(t, "cmdline"), "\x00"), "\x00")
		for i := range argv {
			if i > 0 && strings.HasSuffix(argv[i-1], "-us") {
				argv[i] = "N"
			}
		}
		want := []string{"/firecracker", "--id", "a-1", "--start-time-us", "N", "--start-time-cpu-us", "N", "--parent-cpu-time-us", "N", "--level", "Warn"}
		if diff := cmp.Diff(want, argv); diff != "" {
			t.Errorf("arguments (-want +got):\n%s", diff)
		}
		if env := j.proc(t, "environ"); env != "" {
			t.Errorf("environment %q", env)
		}
		status := j.proc(t, "status")
		for _, line := range []string{"Uid:\t54321\t54321\t54321\t54321\n", "Gid:\t54322\t54322\t54322\t54322\n", "Groups:\t \n", "CapEff:\t0000000000000000\n"} {
			if !strings.Contains(status, line) {
				t.Errorf("status without %q:\n%s", line, status)
			}
		}
		limits := strings.Join(strings.Fields(j.proc(t, "limits")), " ")
		for _, limit := range []string{"Max file size 1234567 1234567 bytes", "Max open files 2048 2048 files"} {
			if !strings.Contains(limits, limit) {
				t.Errorf("limits without %q: %s", limit, limits)
			}
		}
		if mounts := j.proc(t, "mountinfo"); strings.Count(mounts, "\n") != 1 || !strings.Contains(mounts, " / ") {
			t.Errorf("mounts:\n%s", mounts)
		}
	})
}

// checkTree looks at what is in the jail.
func (j *jailed) checkTree(t *testing.T) {
	t.Helper()
	for name, want := range map[string]struct {
		mode fs.FileMode
		uid  uint32
		dev  uint64
	}{
		"":            {fs.ModeDir | 0o700, uid, 0},
		"dev":         {fs.ModeDir | 0o700, uid, 0},
		"dev/net":     {fs.ModeDir | 0o700, uid, 0},
		"run":         {fs.ModeDir | 0o700, uid, 0},
		"dev/net/tun": {fs.ModeDevice | fs.ModeCharDevice | 0o600, uid, unix.Mkdev(10, 200)},
		"dev/kvm":     {fs.ModeDevice | fs.ModeCharDevice | 0o600, uid, unix.Mkdev(10, 232)},
		"dev/urandom": {fs.ModeDevice | fs.ModeCharDevice | 0o600, uid, unix.Mkdev(1, 9)},
		"firecracker": {0o755, uid, 0},
		// root's, as the directory is the VM's
		"firecracker.pid": {0o644, 0, 0},
	} {
		info, err := os.Lstat(filepath.Join(j.root, name))
		must(t, err)
		st := info.Sys().(*syscall.Stat_t)
		if info.Mode() != want.mode || st.Uid != want.uid || st.Rdev != want.dev {
			t.Errorf("/%s is %v of %d, device %#x; want %v of %d, %#x", name, info.Mode(), st.Uid, st.Rdev, want.mode, want.uid, want.dev)
		}
	}
	if _, err := os.Lstat(filepath.Join(j.root, "old_root")); err == nil {
		t.Error("the old root is still there")
	}
}

// TestDescriptorsAreNotInherited: of those that the jailer got nothing is left. What Firecracker opens is its own.
func TestDescriptorsAreNotInherited(t *testing.T) {
	each(t, func(t *testing.T, jailer string) {
		dir, vmm := base(t)
		j := launch(t, jailer, dir, vmm)
		j.await(t)
		list, err := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", j.cmd.Process.Pid))
		must(t, err)
		for _, name := range list {
			if to, _ := os.Readlink(name); to == os.DevNull && filepath.Base(name) > "2" {
				t.Errorf("descriptor %s is %s", filepath.Base(name), to)
			}
		}
	})
}

// TestStaleJail: a jail that was used is refused, and what is planted in a new one, too.
func TestStaleJail(t *testing.T) {
	tests := map[string]struct {
		plant func(t *testing.T, root string)
		want  string
	}{
		"device": {func(t *testing.T, root string) { plant(t, root, "dev/net/tun") }, "Failed to create /dev/net/tun via mknod inside the jail: File exists (os error 17)"},
		"kvm":    {func(t *testing.T, root string) { plant(t, root, "dev/kvm") }, "Failed to create /dev/kvm via mknod inside the jail: File exists (os error 17)"},
		"pid":    {func(t *testing.T, root string) { plant(t, root, "firecracker.pid") }, "Failed to open file /firecracker.pid: File exists (os error 17)"},
		"old":    {func(t *testing.T, root string) { must(t, os.MkdirAll(filepath.Join(root, "old_root"), 0o700)) }, "Failed to create the jail root directory before pivoting root: File exists (os error 17)"},
		"symlink": {func(t *testing.T, root string) {
			must(t, os.Symlink("/etc/hostname", filepath.Join(root, "firecracker")))
		}, "Failed to open $ROOT/firecracker: Symbolic link loop (os error 40)"},
		"hard link": {func(t *testing.T, root string) {
			plant(t, root, "other")
			must(t, os.Link(filepath.Join(root, "other"), filepath.Join(root, "firecracker")))
		}, "Detected hard link at: $ROOT/firecracker"},
	}
	each(t, func(t *testing.T, jailer string) {
		for name, tt := range tests {
			t.Run(name, func(t *testing.T) {
				dir, vmm := base(t)
				root := filepath.Join(dir, "firecracker", "a-1", "root")
				must(t, os.MkdirAll(root, 0o700))
				tt.plant(t, root)
				j := launch(t, jailer, dir, vmm)
				err := j.cmd.Wait()
				var exit *exec.ExitError
				if !errors.As(err, &exit) || exit.ExitCode() != 1 {
					t.Errorf("it ends with %v", err)
				}
				said, _, _ := strings.Cut(j.said(t), "\n")
				said = strings.ReplaceAll(said, "Too many levels of symbolic links", "Symbolic link loop") // glibc's word for musl's
				if want := strings.ReplaceAll(tt.want, "$ROOT", root); said != want {
					t.Errorf("it says %q, want %q", said, want)
				}
			})
		}
	})
}

func plant(t *testing.T, root, name string) {
	t.Helper()
	path := filepath.Join(root, name)
	must(t, os.MkdirAll(filepath.Dir(path), 0o700))
	must(t, os.WriteFile(path, nil, 0o600))
}

// TestNetNS: the namespace is the one that was given.
func TestNetNS(t *testing.T) {
	each(t, func(t *testing.T, jailer string) {
		dir, vmm := base(t)
		holder := exec.Command("sleep", "60")
		holder.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET}
		if err := holder.Start(); err != nil {
			t.Skipf("no network namespace can be made here: %v", err)
		}
		t.Cleanup(func() { _ = holder.Process.Kill(); _ = holder.Wait() })
		path := fmt.Sprintf("/proc/%d/ns/net", holder.Process.Pid)
		j := launch(t, jailer, dir, vmm, "--netns", path)
		j.await(t)
		want, err := os.Readlink(path)
		must(t, err)
		if got, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/net", j.cmd.Process.Pid)); err != nil || got != want {
			t.Errorf("it is in %s, want %s (%v)", got, want, err)
		}
	})
}

// TestCgroupV1: the jail's cgroup is made, has the values, and the process is in it.
func TestCgroupV1(t *testing.T) {
	hierarchy := hierarchy(t, "cgroup", "memory")
	each(t, func(t *testing.T, jailer string) {
		dir, vmm := base(t)
		parent := fmt.Sprintf("stub-jailer-%d", os.Getpid())
		j := launch(t, jailer, dir, vmm, "--cgroup-version", "1", "--parent-cgroup", parent, "--cgroup", "memory.limit_in_bytes=67108864")
		cgroup := filepath.Join(hierarchy, parent, "a-1")
		t.Cleanup(func() {
			_ = j.cmd.Process.Kill()
			_ = j.cmd.Wait()
			for end := time.Now().Add(patience); os.Remove(cgroup) != nil && time.Now().Before(end); time.Sleep(time.Millisecond) {
			}
			_ = os.Remove(filepath.Dir(cgroup))
		})
		j.await(t)
		limit, err := os.ReadFile(filepath.Join(cgroup, "memory.limit_in_bytes"))
		must(t, err)
		procs, err := os.ReadFile(filepath.Join(cgroup, "cgroup.procs"))
		must(t, err)
		if string(limit) != "67108864\n" || string(procs) != fmt.Sprintf("%d\n", j.cmd.Process.Pid) {
			t.Errorf("limit %q, processes %q", limit, procs)
		}
	})
}

// TestParentCgroupV2: without --cgroup the process moves into the parent, if that is there.
func TestParentCgroupV2(t *testing.T) {
	hierarchy := hierarchy(t, "cgroup2", "")
	each(t, func(t *testing.T, jailer string) {
		dir, vmm := base(t)
		parent := fmt.Sprintf("stub-jailer-%d", os.Getpid())
		cgroup := filepath.Join(hierarchy, parent)
		if err := os.Mkdir(cgroup, 0o755); err != nil {
			t.Skipf("no cgroup can be made: %v", err)
		}
		j := launch(t, jailer, dir, vmm, "--cgroup-version", "2", "--parent-cgroup", parent)
		t.Cleanup(func() {
			_ = j.cmd.Process.Kill()
			_ = j.cmd.Wait()
			for end := time.Now().Add(patience); os.Remove(cgroup) != nil && time.Now().Before(end); time.Sleep(time.Millisecond) {
			}
		})
		j.await(t)
		procs, err := os.ReadFile(filepath.Join(cgroup, "cgroup.procs"))
		if err != nil || string(procs) != fmt.Sprintf("%d\n", j.cmd.Process.Pid) {
			t.Errorf("processes %q, %v", procs, err)
		}
	})
}

// hierarchy is where a hierarchy is mounted.
func hierarchy(t *testing.T, kind, controller string) string {
	t.Helper()
	mounts, err := os.ReadFile("/proc/mounts")
	must(t, err)
	for _, line := range strings.Split(string(mounts), "\n") {
		words := strings.Split(line, " ")
		if len(words) == 6 && words[2] == kind && (controller == "" || strings.Contains(","+words[3]+",", ","+controller+",")) {
			return words[1]
		}
	}
	t.Skipf("no %s of %s %s here", "hierarchy", kind, controller)
	return ""
}

// TestNewPIDNamespace: the jailer ends at once, and the pid file has its child's pid as the host sees it.
func TestNewPIDNamespace(t *testing.T) {
	must(t, unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0))
	t.Cleanup(func() { _ = unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0) })
	each(t, func(t *testing.T, jailer string) {
		dir, vmm := base(t)
		j := launch(t, jailer, dir, vmm, "--new-pid-ns")
		if err := j.cmd.Wait(); err != nil {
			t.Fatalf("%v: %s", err, j.said(t))
		}
		j.await(t)
		text, err := os.ReadFile(filepath.Join(j.root, "firecracker.pid"))
		must(t, err)
		pid, err := strconv.Atoi(string(text))
		must(t, err)
		status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
		must(t, err)
		for _, line := range []string{"Name:\tfirecracker\n", fmt.Sprintf("NSpid:\t%d\t1\n", pid), "Uid:\t54321\t54321\t54321\t54321\n"} {
			if !strings.Contains(string(status), line) {
				t.Errorf("status without %q:\n%s", line, status)
			}
		}
		must(t, unix.Kill(pid, unix.SIGKILL))
		if _, err := unix.Wait4(pid, nil, 0, nil); err != nil {
			t.Errorf("it is not this process's child: %v", err)
		}
	})
}

// TestKnobsGoAlong is the stand-in's own.
func TestKnobsGoAlong(t *testing.T) {
	dir, vmm := base(t)
	must(t, os.WriteFile(vmm+".knobs", []byte("stub.die=9\n"), 0o600))
	j := launch(t, filepath.Join(binaries(t), "jailer"), dir, vmm)
	err := j.cmd.Wait()
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.ExitCode() != 9 {
		t.Errorf("it ends with %v: %s", err, j.said(t))
	}
}
