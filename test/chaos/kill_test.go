// Package chaos kills metald where it hurts and checks that nothing is lost and nothing is left.
package chaos

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"connectrpc.com/connect"

	pb "github.com/unkeyed/unkey/go/deploy/metald/gen/vmprovisioner/v1"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/backend/stubvmm"
	"github.com/unkeyed/unkey/go/deploy/metald/test/harness"
)

func TestMain(m *testing.M) {
	code := m.Run()
	harness.Remove()
	os.Exit(code)
}

// kills is how often metald is killed.
const kills = 100

// TestKillAtRandomMoments kills metald with SIGKILL while clients create, boot and delete, and starts it again.
// Then every VM must be fully there or fully gone, and what was acknowledged must hold.
func TestKillAtRandomMoments(t *testing.T) {
	if testing.Short() {
		t.Skip("short")
	}
	w := &world{t: t, assets: harness.StubAssets(t), state: t.TempDir(), stub: stubvmm.BuildQEMU(t), want: map[string]*expectation{}}
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	w.rand = rand.New(rand.NewPCG(seed, 1))
	for round := range kills {
		d := w.start()
		w.check(d, round)
		w.churn(d)
	}
	d := w.start()
	w.check(d, kills)
	w.deleteAll(d)
	w.nothingLeft(d)
}

// expectation is what clients know of one VM. A call that was cut off may or may not have had its effect.
type expectation struct {
	exists, mayExist bool
	running          bool // acknowledged, and nothing since that could have ended it
}

type world struct {
	t      *testing.T
	assets string
	state  string
	stub   string
	rand   *rand.Rand

	mu   sync.Mutex
	want map[string]*expectation
	next int
}

func (w *world) start() *harness.Daemon {
	w.t.Helper()
	return harness.Start(w.t, harness.Options{StateDir: w.state, AssetsDir: w.assets, Env: []string{
		"UNKEY_METALD_BACKEND=qemu", "UNKEY_METALD_QEMU_ACCEL=tcg", "UNKEY_METALD_QEMU_BINARY=" + w.stub,
	}})
}

// churn has clients work on VMs until metald is killed under them.
func (w *world) churn(d *harness.Daemon) {
	var clients sync.WaitGroup
	for range 4 {
		w.mu.Lock()
		r := rand.New(rand.NewPCG(w.rand.Uint64(), 2))
		w.mu.Unlock()
		clients.Go(func() { w.client(d, r) })
	}
	after := time.Duration(w.rand.IntN(120)) * time.Millisecond
	<-time.After(after)
	d.Kill(w.t)
	clients.Wait()
}

// client creates, boots and deletes VMs of its own until metald answers no more.
func (w *world) client(d *harness.Daemon, r *rand.Rand) {
	ctx := context.Background()
	for {
		w.mu.Lock()
		id := fmt.Sprintf("vm-%d", w.next)
		w.next++
		e := &expectation{mayExist: true}
		w.want[id] = e
		w.mu.Unlock()

		if _, err := d.Client.CreateVm(ctx, connect.NewRequest(w.request(id))); err != nil {
			return
		}
		w.set(e, expectation{exists: true, mayExist: true})
		if r.IntN(4) > 0 {
			if _, err := d.Client.BootVm(ctx, connect.NewRequest(&pb.BootVmRequest{VmId: id})); err != nil {
				return
			}
			w.set(e, expectation{exists: true, mayExist: true, running: true})
		}
		if r.IntN(3) > 0 {
			w.set(e, expectation{mayExist: true})
			if _, err := d.Client.DeleteVm(ctx, connect.NewRequest(&pb.DeleteVmRequest{VmId: id, Force: true})); err != nil {
				return
			}
			w.set(e, expectation{})
		}
	}
}

func (w *world) set(e *expectation, to expectation) {
	w.mu.Lock()
	defer w.mu.Unlock()
	*e = to
}

func (w *world) request(id string) *pb.CreateVmRequest {
	return &pb.CreateVmRequest{VmId: id, Config: &pb.VmConfig{
		Cpu:     &pb.CpuConfig{VcpuCount: 1},
		Memory:  &pb.MemoryConfig{SizeBytes: 128 << 20},
		Boot:    &pb.BootConfig{KernelPath: filepath.Join(w.assets, "vmlinux")},
		Storage: []*pb.StorageDevice{{Path: filepath.Join(w.assets, "rootfs.ext4")}},
	}}
}

// check compares what metald reports after a restart with what clients know, and with the host.
func (w *world) check(d *harness.Daemon, round int) {
	w.t.Helper()
	alive := w.vmms()
	for id, e := range w.want {
		info, err := d.Client.GetVmInfo(context.Background(), connect.NewRequest(&pb.GetVmInfoRequest{VmId: id}))
		switch code := harness.Code(err); {
		case code == connect.CodeNotFound:
			if e.exists {
				w.t.Fatalf("round %d: %s was created and is gone", round, id)
			}
			if pid, ok := alive[id]; ok {
				w.t.Fatalf("round %d: %s is gone and its VMM %s lives", round, id, pid)
			}
			w.noFiles(round, id)
			delete(w.want, id)
			continue
		case err != nil:
			w.t.Fatalf("round %d: %s: %v", round, id, err)
		case !e.mayExist:
			w.t.Fatalf("round %d: %s was deleted and is %v", round, id, info.Msg.State)
		case e.running && info.Msg.State != pb.VmState_VM_STATE_RUNNING:
			w.t.Fatalf("round %d: %s was booted and is %v (%v)", round, id, info.Msg.State, info.Msg.BackendInfo)
		}
		if info.Msg.State == pb.VmState_VM_STATE_SHUTDOWN && !e.exists {
			// Its deletion had ended the VMM and was not yet recorded: whole, and without a VMM.
			if pid, ok := alive[id]; ok {
				w.t.Fatalf("round %d: %s is shut down and its VMM %s lives", round, id, pid)
			}
			w.boot(d, round, id)
			continue
		}
		if pid := info.Msg.BackendInfo["pid"]; pid == "" || pid != alive[id] {
			w.t.Fatalf("round %d: %s is %v with pid %q; its VMM is %q", round, id, info.Msg.State, pid, alive[id])
		}
		*e = expectation{exists: true, mayExist: true, running: info.Msg.State == pb.VmState_VM_STATE_RUNNING}
		delete(alive, id)
	}
	if len(alive) > 0 {
		w.t.Fatalf("round %d: VMMs of no VM: %v", round, alive)
	}
}

// boot shows that a VM is whole.
func (w *world) boot(d *harness.Daemon, round int, id string) {
	w.t.Helper()
	if _, err := d.Client.BootVm(context.Background(), connect.NewRequest(&pb.BootVmRequest{VmId: id})); err != nil {
		w.t.Fatalf("round %d: %s is shut down and cannot be booted: %v", round, id, err)
	}
	*w.want[id] = expectation{exists: true, mayExist: true, running: true}
}

// vmms finds the VMM processes of this test by the id on their command line.
func (w *world) vmms() map[string]string {
	found := map[string]string{}
	procs, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		w.t.Fatal(err)
	}
	for _, path := range procs {
		cmdline, err := os.ReadFile(path)
		if err != nil || !strings.Contains(string(cmdline), w.stub+"\x00") {
			continue
		}
		if _, rest, ok := strings.Cut(string(cmdline), "guest="); ok {
			id, _, _ := strings.Cut(strings.SplitN(rest, "\x00", 2)[0], ",")
			found[id] = strings.Split(path, "/")[2]
		}
	}
	return found
}

func (w *world) noFiles(round int, id string) {
	w.t.Helper()
	for _, pattern := range []string{"vms/" + id, "run/" + id + ".*"} {
		if left, _ := filepath.Glob(filepath.Join(w.state, pattern)); len(left) > 0 {
			w.t.Fatalf("round %d: %s is gone and left %v", round, id, left)
		}
	}
}

func (w *world) deleteAll(d *harness.Daemon) {
	for id := range w.want {
		if _, err := d.Client.DeleteVm(context.Background(), connect.NewRequest(&pb.DeleteVmRequest{VmId: id, Force: true})); err != nil {
			w.t.Fatalf("delete %s: %v", id, err)
		}
	}
}

func (w *world) nothingLeft(d *harness.Daemon) {
	w.t.Helper()
	if alive := w.vmms(); len(alive) > 0 {
		w.t.Errorf("VMMs left: %v", alive)
	}
	for _, name := range []string{"vms", "run"} {
		entries, err := os.ReadDir(filepath.Join(w.state, name))
		if err != nil || len(entries) > 0 {
			w.t.Errorf("%s: left %v, %v", name, entries, err)
		}
	}
	list, err := d.Client.ListVms(context.Background(), connect.NewRequest(&pb.ListVmsRequest{}))
	if err != nil || list.Msg.TotalCount != 0 {
		w.t.Errorf("list: %v, %v", list, err)
	}
}
