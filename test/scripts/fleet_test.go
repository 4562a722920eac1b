package scripts

import (
	"context"
	"fmt"
	"io"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"connectrpc.com/connect"

	pb "github.com/unkeyed/unkey/go/deploy/metald/gen/vmprovisioner/v1"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/backend/types"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/guest"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/vm/store"
	"github.com/unkeyed/unkey/go/deploy/metald/test/harness"
)

// fleet is one metald with VMs on several VMMs, and what is to be known of them.
type fleet struct {
	t      *testing.T
	site   harness.Site
	vmms   []harness.VMM
	daemon *harness.Daemon
}

// standIns are the stand-ins of VMMs() that one metald can be given at once: one of each backend.
func standIns() []harness.VMM {
	var all []harness.VMM
	for _, v := range harness.VMMs() {
		same := func(other harness.VMM) bool { return other.Backend == v.Backend }
		if !v.Real && !slices.ContainsFunc(all, same) {
			all = append(all, v)
		}
	}
	return all
}

func newFleet(t *testing.T) *fleet {
	f := &fleet{t: t, vmms: standIns()}
	f.site = harness.NewSite(t, f.vmms...)
	f.site.StateDir = harness.ShortDir(t)
	return f
}

// start starts a metald whose VMs are on own unless they ask for another. env is beyond what the site needs.
func (f *fleet) start(own string, env ...string) {
	f.t.Helper()
	o := f.site.Options
	o.Env = append(slices.Clone(o.Env), "UNKEY_METALD_BACKEND="+own)
	o.Env = append(o.Env, env...)
	d := harness.Start(f.t, o)
	f.daemon = d
	f.t.Cleanup(func() {
		if f.daemon == d {
			d.DeleteAll(f.t)
		}
	})
}

func (f *fleet) create(id, backend string, v harness.VMM) error {
	_, err := f.daemon.Client.CreateVm(context.Background(), connect.NewRequest(&pb.CreateVmRequest{
		VmId: id, Backend: backend, Config: &pb.VmConfig{
			Cpu:     &pb.CpuConfig{VcpuCount: 1},
			Memory:  &pb.MemoryConfig{SizeBytes: 128 << 20},
			Boot:    &pb.BootConfig{KernelPath: f.site.Kernels[v.Name], KernelArgs: harness.QuickStartArgs},
			Storage: []*pb.StorageDevice{{Path: f.site.RootDisks[v.Name]}},
		},
	}))
	return err
}

func (f *fleet) boot(id string, times int) {
	f.t.Helper()
	if _, err := f.daemon.Client.BootVm(context.Background(), connect.NewRequest(&pb.BootVmRequest{VmId: id})); err != nil {
		f.t.Fatal(err)
	}
	f.daemon.AwaitConsole(f.t, id, guest.Marker, times, patience)
}

func (f *fleet) info(id string) *pb.GetVmInfoResponse {
	f.t.Helper()
	resp, err := f.daemon.Client.GetVmInfo(context.Background(), connect.NewRequest(&pb.GetVmInfoRequest{VmId: id}))
	if err != nil {
		f.t.Fatal(err)
	}
	return resp.Msg
}

// list is the backend of each VM.
func (f *fleet) list() map[string]string {
	f.t.Helper()
	resp, err := f.daemon.Client.ListVms(context.Background(), connect.NewRequest(&pb.ListVmsRequest{}))
	if err != nil {
		f.t.Fatal(err)
	}
	on := map[string]string{}
	for _, info := range resp.Msg.Vms {
		on[info.VmId] = info.Backend
	}
	return on
}

func (f *fleet) ready() string {
	f.t.Helper()
	resp, err := http.Get(f.daemon.URL + "/readyz")
	if err != nil {
		f.t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != http.StatusOK {
		f.t.Fatalf("%s: %s, %v", resp.Status, body, err)
	}
	return string(body)
}

// TestMixedFleet has a VM on each backend in one metald, which is killed. The next one has them all, whatever its own
// backend is.
func TestMixedFleet(t *testing.T) {
	f := newFleet(t)
	f.start(f.vmms[0].Backend)
	want, pids := map[string]string{}, map[string]string{}
	for _, v := range f.vmms {
		id := "on-" + v.Backend
		if err := f.create(id, v.Backend, v); err != nil {
			t.Fatal(err)
		}
		f.boot(id, 1)
		want[id], pids[id] = v.Backend, f.info(id).BackendInfo["pid"]
	}
	if err := f.create("on-default", "", f.vmms[0]); err != nil {
		t.Fatal(err)
	}
	want["on-default"] = f.vmms[0].Backend
	if err := f.create("on-"+f.vmms[0].Backend, f.vmms[1].Backend, f.vmms[0]); harness.Code(err) != connect.CodeAlreadyExists {
		t.Errorf("the same VM on another backend: %v", err)
	}
	for _, own := range f.vmms {
		f.daemon.Kill(t)
		f.start(own.Backend)
		if got := f.list(); !maps.Equal(got, want) {
			t.Errorf("with the default %s the VMs are on %v, want %v", own.Backend, got, want)
		}
		for id, pid := range pids {
			info := f.info(id)
			if info.State != pb.VmState_VM_STATE_RUNNING || info.BackendInfo["pid"] != pid || info.BackendInfo["health"] != "" || info.BackendInfo["backend"] != want[id] {
				t.Errorf("with the default %s, %s is %v, %v; its VMM was %s", own.Backend, id, info.State, info.BackendInfo, pid)
			}
		}
	}
	for id, backend := range want { // and each boots again where it was
		if pids[id] == "" {
			continue
		}
		if _, err := f.daemon.Client.ShutdownVm(t.Context(), connect.NewRequest(&pb.ShutdownVmRequest{VmId: id, TimeoutSeconds: 60})); err != nil {
			t.Fatal(err)
		}
		f.boot(id, 2)
		if info := f.info(id).BackendInfo; info["backend"] != backend || info["incarnation"] != "2" {
			t.Errorf("%s booted again: %v", id, info)
		}
	}
}

// TestABackendThatIsNotInstalled is about one that VMs are on and that is gone from the host, until it is back.
func TestABackendThatIsNotInstalled(t *testing.T) {
	f := newFleet(t)
	fc, other := f.vmms[0], f.vmms[1]
	f.start(fc.Backend)
	for _, id := range []string{"alive", "over"} {
		if err := f.create(id, "", fc); err != nil {
			t.Fatal(err)
		}
		f.boot(id, 1)
	}
	if _, err := f.daemon.Client.ShutdownVm(t.Context(), connect.NewRequest(&pb.ShutdownVmRequest{VmId: "over", Force: true})); err != nil {
		t.Fatal(err)
	}
	f.daemon.Kill(t)
	absent := filepath.Join(harness.ShortDir(t), "link-to-firecracker")
	f.start(other.Backend, "UNKEY_METALD_FIRECRACKER_BINARY="+absent)
	if info := f.info("alive"); info.State != pb.VmState_VM_STATE_RUNNING || info.BackendInfo["health"] != "" {
		t.Errorf("a VMM that is alive needs no executable: %v, %v", info.State, info.BackendInfo)
	}
	if said := f.ready(); !strings.Contains(said, "backend firecracker: not tried yet") {
		t.Errorf("/readyz: %s", said)
	}
	boot := func() error {
		_, err := f.daemon.Client.BootVm(t.Context(), connect.NewRequest(&pb.BootVmRequest{VmId: "over"}))
		return err
	}
	for what, err := range map[string]error{"boot": boot(), "create": f.create("new", fc.Backend, fc)} {
		if harness.Code(err) != connect.CodeFailedPrecondition || !strings.Contains(err.Error(), "no such file") {
			t.Errorf("%s: %v", what, err)
		}
	}
	if said := f.ready(); !strings.Contains(said, "backend firecracker: not usable when it was last tried") {
		t.Errorf("/readyz: %s", said)
	}
	if err := f.create("other", "", other); err != nil {
		t.Errorf("on the backend that is there: %v", err)
	}
	installed := f.site.Setting("FIRECRACKER_BINARY")
	if err := os.Symlink(installed, absent); err != nil {
		t.Fatal(err)
	}
	if err := boot(); err != nil {
		t.Errorf("boot once it is there: %v", err)
	}
	if err := f.create("new", fc.Backend, fc); err != nil {
		t.Errorf("create once it is there: %v", err)
	}
	if said := f.ready(); !strings.Contains(said, "backend firecracker: usable") {
		t.Errorf("/readyz: %s", said)
	}
}

// TestABackendThatIsNotInThisBuild is about a VMM that a metald started which had a backend more.
func TestABackendThatIsNotInThisBuild(t *testing.T) {
	f := newFleet(t)
	v := f.vmms[len(f.vmms)-1]
	f.start(v.Backend)
	for _, id := range []string{"strange", "dies", "ours"} {
		if err := f.create(id, "", v); err != nil {
			t.Fatal(err)
		}
		f.boot(id, 1)
	}
	strange, dies := f.pid("strange"), f.pid("dies")
	f.daemon.Kill(t)
	f.renameBackend("of-tomorrow", "strange", "dies")
	f.start(v.Backend)
	if got, want := f.list(), map[string]string{"strange": "of-tomorrow", "dies": "of-tomorrow", "ours": v.Backend}; !maps.Equal(got, want) {
		t.Errorf("the VMs are on %v, want %v", got, want)
	}
	if info := f.info("ours").BackendInfo; info["health"] != "" {
		t.Errorf("a VM of a backend that there is: %v", info)
	}
	if health := f.info("strange").BackendInfo["health"]; !strings.Contains(health, "of-tomorrow, which this metald has not, so what its guest does now is not known") {
		t.Errorf("health: %s", health)
	}
	if err := syscall.Kill(dies, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	harness.Eventually(t, patience, "the end of a VMM that cannot be asked is seen", func() bool {
		return f.info("dies").State == pb.VmState_VM_STATE_SHUTDOWN
	})
	if _, err := f.daemon.Client.DeleteVm(t.Context(), connect.NewRequest(&pb.DeleteVmRequest{VmId: "strange", Force: true})); err != nil {
		t.Fatal(err)
	}
	if state, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", strange)); err == nil && !strings.Contains(string(state), ") Z ") {
		t.Errorf("the VMM of a VM that was deleted is alive: %s", state)
	}
}

func (f *fleet) pid(id string) int {
	f.t.Helper()
	pid, err := strconv.Atoi(f.info(id).BackendInfo["pid"])
	if err != nil {
		f.t.Fatal(err)
	}
	return pid
}

// renameBackend has the records of VMs say that another backend started their VMMs. No metald runs.
func (f *fleet) renameBackend(to string, ids ...types.VMID) {
	f.t.Helper()
	records, err := store.OpenBolt(filepath.Join(f.site.StateDir, "vms.db"))
	if err != nil {
		f.t.Fatal(err)
	}
	defer records.Close()
	all, err := records.All()
	if err != nil {
		f.t.Fatal(err)
	}
	for _, rec := range all {
		if !slices.Contains(ids, rec.ID) {
			continue
		}
		rec.Backend, rec.Handle.Backend = to, to
		if err := records.Put(rec); err != nil {
			f.t.Fatal(err)
		}
	}
}
