package firecracker

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/unkeyed/unkey/go/deploy/metald/internal/backend/backendtest"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/backend/cage"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/backend/stubvmm"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/backend/types"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/console"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/guest"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/host/cgroup"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/host/jail"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/host/kvm"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/vm/lifecycle"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/vmmprocess"
)

// someUID is the first of the users that these tests' VMMs run as.
const someUID = 710_000

// guestPatience is for a guest to say something: in the lab it needs seconds.
const guestPatience = 3 * patience

// rig is a Backend with everything it needs, and files for guests.
type rig struct {
	t       testing.TB
	real    bool
	guests  bool   // guests run
	args    string // for every guest's kernel
	dir     string
	kernel  string
	root    string // template of the root disk
	volumes string // directory of volumes, "" for none
	config  Config
	backend *Backend
}

// kinds of rigs: the stand-in with and without its jailer, and the real binaries where there are some.
var kinds = []struct {
	name   string
	real   bool
	jailed bool
}{
	{"stub", false, false}, {"stub-jailed", false, true},
	{"firecracker", true, false}, {"firecracker-jailed", true, true},
}

// everywhere runs a test on every kind of rig that this machine can have.
func everywhere(t *testing.T, test func(*testing.T, *rig)) {
	for _, k := range kinds {
		t.Run(k.name, func(t *testing.T) {
			if k.real {
				test(t, onFirecracker(t, k.jailed))
			} else {
				test(t, onStub(t, k.jailed))
			}
		})
	}
}

// onStubs runs a test on the stand-in, with and without its jailer.
func onStubs(t *testing.T, test func(*testing.T, *rig)) {
	for _, k := range kinds {
		if !k.real {
			t.Run(k.name, func(t *testing.T) { test(t, onStub(t, k.jailed)) })
		}
	}
}

// onStub returns a rig whose Firecracker is the stand-in.
func onStub(t testing.TB, jailed bool) *rig {
	t.Helper()
	dir := backendtest.Dir(t)
	kernel, root := filepath.Join(dir, "vmlinux"), filepath.Join(dir, "root.ext4")
	backendtest.Write(t, kernel, stubvmm.Kernel())
	backendtest.Write(t, root, make([]byte, 4096))
	r := newRig(t, dir, stubs.Firecracker, stubs.Jailer, jailed, kernel, root)
	r.guests = true
	return r
}

// onFirecracker returns a rig with Firecracker itself; it skips the test where there is none, or KVM does not run guests.
func onFirecracker(t testing.TB, jailed bool) *rig {
	t.Helper()
	r := onControlPlane(t, jailed)
	if os.Getenv("METALD_TEST_KVM") != "1" {
		t.Skip("guests by KVM run in the KVM lab only, which sets METALD_TEST_KVM=1; `make lab` runs these tests there")
	}
	r.guests, r.args = true, os.Getenv("METALD_TEST_KERNEL_ARGS")
	return r
}

// onControlPlane returns a rig with Firecracker itself, whose guests need not run.
func onControlPlane(t testing.TB, jailed bool) *rig {
	t.Helper()
	firecracker, jailer := os.Getenv("METALD_TEST_FIRECRACKER"), os.Getenv("METALD_TEST_JAILER")
	if firecracker == "" || jailer == "" {
		t.Skip("there is no Firecracker: METALD_TEST_FIRECRACKER and METALD_TEST_JAILER are to name one of version " + pinned.String() + " and its jailer")
	}
	assets := os.Getenv("METALD_TEST_ASSETS")
	if assets == "" {
		assets, _ = filepath.Abs("../../../build/vm-assets")
	}
	kernel, root := filepath.Join(assets, "vmlinux"), filepath.Join(assets, "rootfs.ext4")
	for _, path := range []string{kernel, root} {
		if _, err := os.Stat(path); err != nil {
			t.Skipf("no VM assets: %v; `make vm-assets` makes them", err)
		}
	}
	r := newRig(t, backendtest.Dir(t), firecracker, jailer, jailed, kernel, root)
	r.real = true
	if err := kvm.OthersOpen(); err != nil && !jailed {
		t.Skip(err)
	}
	return r
}

func newRig(t testing.TB, dir, firecracker, jailerPath string, jailed bool, kernel, root string) *rig {
	t.Helper()
	r := &rig{t: t, dir: dir, kernel: kernel, root: root, config: Config{Binary: firecracker}}
	if jailed {
		if os.Geteuid() != 0 {
			t.Skip("only root can jail")
		}
		r.config.JailerBinary, r.config.Jail = jailerPath, &cage.Config{
			Dir: filepath.Join(dir, "jail"), NetNamespace: true, PIDNamespace: true, MaxOpenFiles: 1024,
		}
	}
	r.backend = r.another()
	t.Cleanup(func() { r.wantNoGroups(); r.removeParent() })
	return r
}

// another returns a Backend that knows nothing of the first: what a metald that started again has.
func (r *rig) another() *Backend {
	r.t.Helper()
	log := slog.New(slog.NewTextHandler(backendtest.Log{TB: r.t}, nil))
	supervisor, err := vmmprocess.New(log)
	must(r.t, err)
	drainer, err := console.NewDrainer()
	must(r.t, err)
	ctx, cancel := context.WithCancel(context.Background())
	var running errgroup.Group
	running.Go(func() error { return supervisor.Run(ctx) })
	running.Go(func() error { return drainer.Run(ctx) })
	r.t.Cleanup(func() {
		cancel()
		if err := running.Wait(); err != nil {
			r.t.Error(err)
		}
	})
	cfg := r.config
	cfg.Supervisor, cfg.Drainer, cfg.Log = supervisor, drainer, log
	b, err := New(cfg)
	must(r.t, err)
	return b
}

func (r *rig) jailed() bool { return r.config.Jail != nil }

// leftovers names what is left of jails and cgroups.
func (r *rig) leftovers() (left []string) {
	if !r.jailed() {
		return nil
	}
	jails, err := jail.List(r.config.Jail.Dir)
	if err != nil {
		left = append(left, err.Error())
	}
	for _, j := range jails {
		left = append(left, "the jail "+j.Dir)
	}
	if err := r.backend.openCage(); err != nil {
		return append(left, err.Error())
	}
	groups, err := r.backend.cage.Parent().List()
	if err != nil {
		left = append(left, err.Error())
	}
	for _, g := range groups {
		left = append(left, "the cgroup "+g)
	}
	return left
}

func (r *rig) wantNoGroups() {
	r.t.Helper()
	for _, what := range r.leftovers() {
		r.t.Errorf("left behind: %s", what)
	}
}

// removeParent removes the rig's own cgroup, which a metald keeps.
func (r *rig) removeParent() {
	if !r.jailed() {
		return
	}
	root, err := cgroup.Find()
	must(r.t, err)
	parent, err := root.Open(r.backend.cage.Name())
	must(r.t, err)
	must(r.t, parent.Remove(context.Background()))
}

// testVM is one VM under test.
type testVM struct {
	*machine
	r      *rig
	t      testing.TB
	screen *backendtest.Screen
	req    types.CreateRequest
}

func (r *rig) spec(args ...string) types.Spec {
	return types.Spec{
		CPU: types.CPU{Count: 1}, Memory: types.Memory{SizeBytes: 128 << 20},
		Boot:    types.Boot{KernelPath: r.kernel, KernelArgs: strings.Join(append([]string{"console=ttyS0 reboot=k panic=1 pci=off quiet", r.args}, args...), " ")},
		Disks:   []types.Disk{{ID: "root", Path: r.root}},
		Console: types.Console{Enabled: true},
	}
}

func (r *rig) request(name string, spec types.Spec) types.CreateRequest {
	req := types.CreateRequest{
		ID: types.VMID(name), Incarnation: 1, Spec: spec, Kernel: r.kernel, RunDir: filepath.Join(r.dir, "run-"+name),
		Console: new(backendtest.Screen), Commit: func(types.Handle) error { return nil },
	}
	if os.Geteuid() == 0 {
		req.UID, req.GID = someUID, someUID
	}
	for i := range spec.Disks {
		path := filepath.Join(r.dir, fmt.Sprintf("%s-disk%d", name, i))
		if _, err := os.Stat(path); err != nil {
			backendtest.Copy(r.t, r.root, path)
		}
		req.Disks = append(req.Disks, path)
	}
	return req
}

// create makes a VM; its end is seen to when the test ends.
func (r *rig) create(name string, spec types.Spec) *testVM {
	r.t.Helper()
	return r.createFrom(r.request(name, spec))
}

func (r *rig) createFrom(req types.CreateRequest) *testVM {
	r.t.Helper()
	commits := 0
	req.Commit = func(types.Handle) error { commits++; return nil }
	m, err := r.backend.Create(r.t.Context(), req)
	must(r.t, err)
	v := &testVM{machine: m.(*machine), r: r, t: r.t, screen: req.Console.(*backendtest.Screen), req: req}
	r.t.Cleanup(func() {
		select {
		case <-v.machine.released: // somebody else has it, or had it and is done
			backendtest.Reap(r.t, r.backend, v.Handle())
		default:
			must(r.t, v.Destroy(context.Background()))
		}
		v.wantGone()
	})
	if commits != 1 {
		r.t.Fatalf("commit was called %d times", commits)
	}
	return v
}

// running makes a VM whose vCPUs run.
func (r *rig) running(name string, args ...string) *testVM {
	r.t.Helper()
	v := r.create(name, r.spec(args...))
	must(r.t, v.Boot(r.t.Context()))
	return v
}

// boot makes a VM and waits until its user space speaks.
func (r *rig) boot(name string, args ...string) *testVM {
	r.t.Helper()
	v := r.running(name, args...)
	v.screen.WaitFor(r.t, guestPatience, guest.Marker)
	return v
}

func (v *testVM) want(state lifecycle.State) {
	v.t.Helper()
	got, err := v.State(v.t.Context())
	must(v.t, err)
	if got != state {
		v.t.Fatalf("VM is %s, want %s", got, state)
	}
}

// wantExit waits for the end and checks the reason.
func (v *testVM) wantExit(reason string) types.Exit {
	v.t.Helper()
	select {
	case <-v.Exited():
	case <-time.After(patience):
		v.t.Fatalf("VM has not ended within %s; console:\n%s", patience, v.screen)
	}
	x := v.Exit()
	if x.Reason != reason {
		v.t.Fatalf("exit is %+v, want the reason %s; console:\n%s", x, reason, v.screen)
	}
	v.want(lifecycle.Shutdown)
	return x
}

// wantGone checks that nothing of the VM is left.
func (v *testVM) wantGone() {
	v.t.Helper()
	root, err := v.home.root()
	must(v.t, err)
	for _, dir := range []string{v.req.RunDir, root} {
		if _, err := os.Lstat(dir); !os.IsNotExist(err) {
			v.t.Errorf("%s is left (%v)", dir, err)
		}
	}
	if err := syscall.Kill(v.machine.handle.Process.PID, 0); err != syscall.ESRCH {
		v.t.Errorf("process %d is still there", v.machine.handle.Process.PID)
	}
}

// adopt has another Backend take over a VM that was released.
func (v *testVM) adopt(b *Backend) *testVM {
	v.t.Helper()
	m, err := b.Adopt(v.t.Context(), types.AdoptRequest{Handle: v.Handle(), Spec: v.req.Spec, Console: v.screen})
	must(v.t, err)
	adopted := &testVM{machine: m.(*machine), r: v.r, t: v.t, screen: v.screen, req: v.req}
	v.t.Cleanup(func() {
		select {
		case <-adopted.released:
		default:
			must(v.t, adopted.Destroy(context.Background()))
		}
	})
	return adopted
}

func pidText(v *testVM) string { return strconv.Itoa(v.Handle().Process.PID) }

// pidState is the state letter of a process, "" where there is none.
func pidState(pid int) string {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return ""
	}
	_, rest, _ := strings.Cut(string(b), ") ")
	state, _, _ := strings.Cut(rest, " ")
	return state
}

// eventually waits for a thing that can only be asked for.
func eventually(t testing.TB, what string, holds func() bool) {
	t.Helper()
	backendtest.Eventually(t, patience, what, holds)
}
