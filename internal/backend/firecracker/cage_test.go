package firecracker

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/unkeyed/unkey/go/deploy/metald/internal/backend/types"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/host/cgroup"
)

// groupDirs are the directories of a process's cgroups below the rig's own, by the controllers of their hierarchy; "" on
// version 2.
func (v *testVM) groupDirs() map[string]string {
	v.t.Helper()
	text, err := os.ReadFile(filepath.Join("/proc", pidText(v), "cgroup"))
	must(v.t, err)
	want := "/" + v.home.private.Jail.Cgroup + "/" + v.home.private.Jail.ID
	dirs := map[string]string{}
	for line := range strings.Lines(string(text)) {
		parts := strings.SplitN(strings.TrimSpace(line), ":", 3)
		if !strings.HasSuffix(parts[2], want) {
			continue
		}
		for controller := range strings.SplitSeq(parts[1], ",") {
			// Where the hierarchies are mounted mountinfo says; the names are the usual ones.
			dirs[controller] = filepath.Join(mountOf(v.t, controller), want)
		}
	}
	return dirs
}

// mountOf is where the hierarchy of a controller is mounted, "" being the one of version 2.
func mountOf(t testing.TB, controller string) string {
	t.Helper()
	text, err := os.ReadFile("/proc/self/mounts")
	must(t, err)
	for line := range strings.Lines(string(text)) {
		f := strings.Fields(line)
		if controller == "" && f[2] == "cgroup2" || f[2] == "cgroup" && slices.Contains(strings.Split(f[3], ","), controller) {
			return f[1]
		}
	}
	t.Fatalf("no hierarchy has the controller %q", controller)
	return ""
}

func TestLimitsOfAJail(t *testing.T) {
	r := onStub(t, true)
	const memory, percent, rate = 256 << 20, 150, 50 << 20
	r.config.Jail.CPUPercent, r.config.Jail.MaxOpenFiles = percent, 777
	major, minor, err := cgroup.DeviceOf(r.dir)
	limited := err == nil
	if limited {
		r.config.Jail.IOBytes = rate
	} else {
		t.Logf("limits of I/O are not tested: %v", err)
	}
	r.backend = r.another()
	spec := r.spec()
	spec.CPU.Count, spec.Memory.SizeBytes = 2, memory
	v := r.create("limited", spec)

	const most = memory + 64<<20 + memory/64
	version1 := map[string]map[string]string{
		"memory": {"memory.limit_in_bytes": fmt.Sprint(most)},
		"cpu":    {"cpu.cfs_quota_us": "150000", "cpu.cfs_period_us": "100000"},
		"pids":   {"pids.max": "34"},
	}
	io1, io2 := fmt.Sprintf("%d:%d %d", major, minor, rate), fmt.Sprintf("%d:%d rbps=%d wbps=%d riops=max wiops=max", major, minor, rate, rate)
	if limited {
		version1["blkio"] = map[string]string{"blkio.throttle.read_bps_device": io1, "blkio.throttle.write_bps_device": io1}
	}
	version2 := map[string]string{"memory.max": fmt.Sprint(most), "cpu.max": "150000 100000", "pids.max": "34"}
	if limited {
		version2["io.max"] = io2
	}
	want := version1
	if r.backend.cage.Version() == 2 {
		want = map[string]map[string]string{"": version2}
	}
	dirs := v.groupDirs()
	for controller, files := range want {
		dir, ok := dirs[controller]
		if !ok {
			t.Errorf("the VMM is not in its group of the controller %q: %v", controller, dirs)
			continue
		}
		for file, value := range files {
			text, err := os.ReadFile(filepath.Join(dir, file))
			if got := strings.TrimSpace(string(text)); err != nil || got != value {
				t.Errorf("%s is %q, %v; want %q", file, got, err, value)
			}
		}
	}
	text, err := os.ReadFile(filepath.Join("/proc", pidText(v), "limits"))
	must(t, err)
	if i := strings.Index(string(text), "Max open files"); i < 0 || strings.Fields(string(text)[i:])[3] != "777" {
		t.Errorf("limits of the VMM:\n%s", text)
	}
}

func TestAVMBeyondTheMemoryLimitIsRefused(t *testing.T) {
	r := onStub(t, true)
	const guest = 128 << 20
	r.config.Jail.MemoryBytes = guest + 64<<20 + guest/64
	r.backend = r.another()
	r.create("fits", r.spec())
	r.config.Jail.MemoryBytes--
	beyond := &rig{t: t, dir: r.dir, kernel: r.kernel, root: r.root, config: r.config, backend: r.another()}
	_, err := beyond.backend.Create(t.Context(), beyond.request("beyond", r.spec()))
	wantKind(t, err, types.KindInvalid, "config.memory.size_bytes", "UNKEY_METALD_JAILER_MEMORY_LIMIT")
}

func TestWhatAJailedVMMIs(t *testing.T) {
	r := onStub(t, true)
	v := r.boot("jailed")
	pid := v.Handle().Process.PID
	user := strconv.Itoa(someUID)
	for field, want := range map[string]string{
		"Uid": strings.Join([]string{user, user, user, user}, " "), "Gid": strings.Join([]string{user, user, user, user}, " "),
		"Groups": "", "CapInh": "0000000000000000", "CapPrm": "0000000000000000", "CapEff": "0000000000000000", "CapAmb": "0000000000000000",
	} {
		if got := statusOf(pid, field); got != want {
			t.Errorf("%s of the VMM is %q, want %q", field, got, want)
		}
	}
	if pids := strings.Fields(statusOf(pid, "NSpid")); len(pids) < 2 || pids[len(pids)-1] != "1" {
		t.Errorf("its pids are %q; it is to be the first of its PID namespace", pids)
	}
	for _, ns := range []string{"ns/net", "ns/pid", "ns/mnt"} {
		if got := link(pid, ns); got == "" || got == link(os.Getpid(), ns) {
			t.Errorf("%s is %q, metald's own", ns, got)
		}
	}
	root, err := v.home.root()
	must(t, err)
	var inside, outside os.FileInfo
	if inside, err = os.Stat(filepath.Join("/proc", pidText(v), "root")); err == nil {
		outside, err = os.Stat(root)
	}
	if err != nil || !os.SameFile(inside, outside) {
		t.Errorf("its root is not its jail (%v)", err)
	}
	if devices, err := os.ReadFile(filepath.Join("/proc", pidText(v), "net/dev")); err != nil || strings.Count(string(devices), "\n") != 3 {
		t.Errorf("its network has more than a loopback: %s, %v", devices, err)
	}
	if env, err := os.ReadFile(filepath.Join("/proc", pidText(v), "environ")); err != nil || len(env) != 0 {
		t.Errorf("its environment is %q, %v", env, err)
	}
	files, err := os.ReadDir(filepath.Join("/proc", pidText(v), "fd"))
	must(t, err)
	for _, f := range files {
		if to := link(pid, "fd/"+f.Name()); strings.HasPrefix(to, r.dir) && !strings.HasPrefix(to, root) && f.Name() > "2" {
			t.Errorf("it has %s open as %s", to, f.Name())
		}
	}
}
