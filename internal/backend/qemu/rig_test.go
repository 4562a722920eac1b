package qemu

import (
	"context"
	"encoding/binary"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/sync/errgroup"

	"github.com/unkeyed/unkey/go/deploy/metald/internal/backend/backendtest"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/backend/stubvmm"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/backend/types"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/console"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/guest"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/kernelimage"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/vm/lifecycle"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/vmmprocess"
)

// patience bounds every wait of these tests: a guest by TCG on a busy machine needs seconds.
const patience = 60 * time.Second

// What TestMain makes once.
var (
	stubPath string
	trials   string // the directory that keeps the verdict about KVM
)

func TestMain(m *testing.M) { os.Exit(run(m)) }

func run(m *testing.M) int {
	dir, err := os.MkdirTemp("", "stub")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	trials = dir
	if stubPath, err = stubvmm.BuildQEMUIn(dir); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	code := m.Run()
	if err := goleak.Find(); err != nil && code == 0 {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return code
}

// rig is a Backend with everything it needs, and files for guests.
type rig struct {
	t        testing.TB
	real     bool
	parallel bool // other tests open files meanwhile
	dir      string
	kernel   string
	root     string // template of the root disk
	config   Config
	backend  *Backend
}

// onStub returns a rig whose QEMU is the stand-in.
func onStub(t testing.TB) *rig {
	dir := backendtest.Dir(t)
	kernel, root := filepath.Join(dir, "vmlinuz"), filepath.Join(dir, "root.ext4")
	backendtest.Write(t, kernel, fakeBzImage("7.1.2 (builder@host) #1"))
	backendtest.Write(t, root, make([]byte, 4096))
	return newRig(t, dir, Config{Binary: stubPath, Accel: accelTCG}, kernel, root)
}

// inLab says that the tests run in the KVM lab: as root, on a host whose KVM is sound, which is theirs alone.
func inLab() bool { return os.Getenv("METALD_TEST_KVM") == "1" }

// realAccel is what real guests run on in these tests. A KVM that only seems to work hangs them; the lab's does not.
func realAccel() string {
	if inLab() {
		return accelKVM
	}
	return accelTCG
}

// trialTimeout is how long a trial of KVM may take: in the lab everything is slow.
func trialTimeout() time.Duration {
	if inLab() {
		return patience
	}
	return canaryTimeout
}

// onQEMU returns a rig with QEMU itself and real guests; it skips the test where there are none.
func onQEMU(t testing.TB) *rig {
	t.Helper()
	if testing.Short() {
		t.Skip("real guests take seconds each, and this is a short run")
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
	r := newRig(t, backendtest.Dir(t), Config{Accel: realAccel(), CanaryKernel: kernel, CanaryTimeout: trialTimeout(), StateDir: trials}, kernel, root)
	if err := r.backend.Check(t.Context()); err != nil {
		t.Skipf("no QEMU: %v", err)
	}
	r.real = true
	return r
}

// everywhere runs a test on the stand-in and on QEMU.
func everywhere(t *testing.T, test func(*testing.T, *rig)) {
	t.Run("stub", func(t *testing.T) { test(t, onStub(t)) })
	t.Run("qemu", func(t *testing.T) { test(t, onQEMU(t)) })
}

func newRig(t testing.TB, dir string, cfg Config, kernel, root string) *rig {
	r := &rig{t: t, dir: dir, kernel: kernel, root: root, config: cfg}
	r.backend = r.another()
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

// testVM is one VM under test.
type testVM struct {
	*machine
	t      testing.TB
	screen *backendtest.Screen
	handle types.Handle
	req    types.CreateRequest
}

// spec is the documented quick start's VM, with the test's kernel arguments.
func (r *rig) spec(args ...string) types.Spec {
	return types.Spec{
		CPU: types.CPU{Count: 1}, Memory: types.Memory{SizeBytes: 128 << 20},
		Boot:    types.Boot{KernelPath: r.kernel, KernelArgs: strings.Join(append([]string{"console=ttyS0 reboot=k panic=1 pci=off quiet", os.Getenv("METALD_TEST_KERNEL_ARGS")}, args...), " ")},
		Disks:   []types.Disk{{ID: "root", Path: r.root}},
		Console: types.Console{Enabled: true},
	}
}

func (r *rig) request(name string, spec types.Spec) types.CreateRequest {
	req := types.CreateRequest{
		ID: types.VMID(name), Incarnation: 1, Spec: spec, Kernel: r.kernel, RunDir: filepath.Join(r.dir, "run-"+name),
		Console: new(backendtest.Screen), Commit: func(types.Handle) error { return nil },
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
	v := &testVM{t: r.t, screen: req.Console.(*backendtest.Screen), req: req}
	commits := 0
	req.Commit = func(h types.Handle) error {
		commits++
		v.handle = h
		return nil
	}
	m, err := r.backend.Create(r.t.Context(), req)
	must(r.t, err)
	v.machine = m.(*machine)
	r.t.Cleanup(func() {
		select {
		case <-v.machine.released: // somebody else has it, or had it and is done
			backendtest.Reap(r.t, r.backend, v.Handle())
		default:
			must(r.t, v.Destroy(context.Background()))
		}
	})
	if commits != 1 {
		r.t.Fatalf("commit was called %d times", commits)
	}
	return v
}

// running makes a VM whose guest has begun to start, which is enough where it has nothing to do: by TCG a boot takes
// seconds.
func (r *rig) running(name string) *testVM {
	r.t.Helper()
	v := r.create(name, r.spec())
	must(r.t, v.Boot(r.t.Context()))
	return v
}

// boot makes a VM and waits until its user space speaks.
func (r *rig) boot(name string, args ...string) *testVM {
	r.t.Helper()
	v := r.create(name, r.spec(args...))
	must(r.t, v.Boot(r.t.Context()))
	v.screen.WaitFor(r.t, patience, guest.Marker)
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

// wantExit waits for the end and checks the reason; within bounds the wait.
func (v *testVM) wantExit(reason string, within time.Duration) types.Exit {
	v.t.Helper()
	if !v.endsWithin(within) {
		v.t.Fatalf("VM has not ended within %s; console:\n%s", within, v.screen)
	}
	x := v.Exit()
	if x.Reason != reason {
		v.t.Fatalf("exit is %+v, want the reason %s; console:\n%s", x, reason, v.screen)
	}
	v.want(lifecycle.Shutdown)
	return x
}

func (v *testVM) endsWithin(limit time.Duration) bool {
	select {
	case <-v.Exited():
		return true
	default:
	}
	select {
	case <-v.Exited():
		return true
	case <-time.After(limit):
		return false
	}
}

// wantGone checks that nothing of the VM is left.
func (v *testVM) wantGone() {
	v.t.Helper()
	wantNoDir(v.t, v.req.RunDir)
	if err := syscall.Kill(v.machine.handle.Process.PID, 0); err != syscall.ESRCH {
		v.t.Fatalf("process %d is still there", v.machine.handle.Process.PID)
	}
}

func wantNoDir(t testing.TB, dir string) {
	t.Helper()
	if _, err := os.Lstat(dir); !os.IsNotExist(err) {
		t.Fatalf("%s is left (%v)", dir, err)
	}
}

func wantKind(t testing.TB, err error, kind types.Kind, field, text string) {
	t.Helper()
	var e *types.Error
	if !asError(err, &e) || e.Kind != kind || e.Field != field || !strings.Contains(err.Error(), text) {
		t.Fatalf("error is %v (%T), want kind %d, field %q and %q in it", err, err, kind, field, text)
	}
}

// fakeBzImage has the header of a Linux kernel and nothing else.
func fakeBzImage(version string) []byte {
	b := make([]byte, 0x400)
	b[0x1fe], b[0x1ff] = 0x55, 0xaa
	copy(b[0x202:], "HdrS")
	binary.LittleEndian.PutUint16(b[0x20e:], 0x100)
	copy(b[0x300:], version+"\x00")
	return b
}

func pidState(t testing.TB, pid int) string {
	state, _ := stat(pid)
	if state == "" {
		t.Fatalf("there is no process %d", pid)
	}
	return state
}

// bzImage is the bootable twin of an uncompressed kernel, or the kernel itself.
func bzImage(kernel string) string {
	if _, err := os.Stat(kernel + kernelimage.SiblingSuffix); err == nil {
		return kernel + kernelimage.SiblingSuffix
	}
	return kernel
}

func pidText(v *testVM) string { return strconv.Itoa(v.Handle().Process.PID) }

// powerOff asks until the guest obeys: a press before its user space listens is lost.
func (v *testVM) powerOff() types.Exit {
	v.t.Helper()
	tick := time.NewTicker(300 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); {
		if err := v.Shutdown(v.t.Context()); err != nil {
			if !v.endsWithin(time.Second) {
				v.t.Fatal(err)
			}
		}
		select {
		case <-v.Exited():
			return v.wantExit(types.ReasonGuestShutdown, 0)
		case <-tick.C:
		}
	}
	v.t.Fatalf("the guest did not power off; console:\n%s", v.screen)
	panic("unreachable")
}

// eventually waits for a thing that can only be asked for.
func eventually(t testing.TB, what string, holds func() bool) {
	t.Helper()
	backendtest.Eventually(t, patience, what, holds)
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
