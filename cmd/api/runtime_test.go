package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"connectrpc.com/connect"

	pb "github.com/unkeyed/unkey/go/deploy/metald/gen/vmprovisioner/v1"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/backend/stubvmm"
	"github.com/unkeyed/unkey/go/deploy/metald/test/harness"
)

// TestRuntimeDir moves what VMMs need while they run to another place, under a VM that began before: it is taken over,
// its next VMM is in the new place, and in the end nothing is left in either.
func TestRuntimeDir(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("VMMs run as users of their own, which takes root")
	}
	home, err := os.MkdirTemp("", "m")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(home) })
	state, runtime, assets := filepath.Join(home, "state"), filepath.Join(home, "runtime"), harness.StubAssets(t)
	kernel := filepath.Join(assets, "kernel") // an ELF file, of a name that is not tried under KVM first
	if err := os.WriteFile(kernel, stubvmm.Kernel(), 0o644); err != nil {
		t.Fatal(err)
	}
	for backend, env := range map[string][]string{
		"qemu": {"UNKEY_METALD_QEMU_ACCEL=tcg", "UNKEY_METALD_QEMU_BINARY=" + stubvmm.BuildQEMU(t)},
		"firecracker": {
			"UNKEY_METALD_FIRECRACKER_BINARY=" + stubvmm.BuildFirecracker(t), "UNKEY_METALD_JAILER_ENABLED=false",
		},
	} {
		t.Run(backend, func(t *testing.T) {
			env = append(env, "UNKEY_METALD_BACKEND="+backend)
			o := harness.Options{StateDir: state, AssetsDir: assets, Env: env}
			if backend == "firecracker" {
				o.Under = harness.OpenKVM(t)
			}
			d := harness.Start(t, o)
			request := harness.Guest(assets, "a", "")
			if backend == "firecracker" {
				request.Config.Boot.KernelPath = kernel
			}
			bootOne(t, d, request)
			wantRunDirs(t, state, "a.1")
			d.Stop(t)

			for _, stray := range []string{state + "/run/b.1", runtime + "/run/b.2"} {
				if err := os.MkdirAll(stray, 0o700); err != nil {
					t.Fatal(err)
				}
			}
			o.Env = append(env, "UNKEY_METALD_RUNTIME_DIR="+runtime)
			d = harness.Start(t, o)
			wantRunDirs(t, state, "a.1")
			wantRunDirs(t, runtime)
			wantRunning(t, d, "a")
			if _, err := d.Client.RebootVm(t.Context(), connect.NewRequest(&pb.RebootVmRequest{VmId: "a", Force: true})); err != nil {
				t.Fatal(err)
			}
			wantRunDirs(t, runtime, "a.2")
			d.Stop(t)

			d = harness.Start(t, o) // which keeps the VMM's files, wherever they are
			wantRunning(t, d, "a")
			if _, err := d.Client.DeleteVm(t.Context(), connect.NewRequest(&pb.DeleteVmRequest{VmId: "a", Force: true})); err != nil {
				t.Fatal(err)
			}
			wantRunDirs(t, state)
			wantRunDirs(t, runtime)
			other := o
			other.StateDir = filepath.Join(home, "other")
			code, _, log := call(t, []string{"-port=0", "-state-dir=" + other.StateDir, "-runtime-dir=" + runtime})
			if code == 0 || !strings.Contains(log, fmt.Sprintf("UNKEY_METALD_RUNTIME_DIR: %s is in use by another metald", runtime)) {
				t.Errorf("a second metald in the same directory: exit code %d, %s", code, log)
			}
			d.Stop(t)
		})
	}
}

func bootOne(t *testing.T, d *harness.Daemon, request *pb.CreateVmRequest) {
	t.Helper()
	if _, err := d.Client.CreateVm(t.Context(), connect.NewRequest(request)); err != nil {
		t.Fatalf("create: %v\n%s", err, d.Log())
	}
	if _, err := d.Client.BootVm(t.Context(), connect.NewRequest(&pb.BootVmRequest{VmId: request.VmId})); err != nil {
		t.Fatalf("boot: %v\n%s", err, d.Log())
	}
}

func wantRunning(t *testing.T, d *harness.Daemon, id string) {
	t.Helper()
	info, err := d.Client.GetVmInfo(t.Context(), connect.NewRequest(&pb.GetVmInfoRequest{VmId: id}))
	if err != nil {
		t.Fatal(err)
	}
	if info.Msg.State != pb.VmState_VM_STATE_RUNNING {
		t.Errorf("VM %s is %s, want running\n%s", id, info.Msg.State, d.Log())
	}
}

func wantRunDirs(t *testing.T, parent string, want ...string) {
	t.Helper()
	entries, err := os.ReadDir(filepath.Join(parent, "run"))
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, e := range entries {
		got = append(got, e.Name())
	}
	if fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("in %s is %v, want %v", parent, got, want)
	}
}
