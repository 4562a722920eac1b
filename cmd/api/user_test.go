package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"connectrpc.com/connect"

	pb "github.com/unkeyed/unkey/go/deploy/metald/gen/vmprovisioner/v1"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/backend/stubvmm"
	"github.com/unkeyed/unkey/go/deploy/metald/test/harness"
)

// nobody is a user without rights: Debian's nobody, though no such account need exist.
const nobody = 65534

// TestMetaldNeedNotBeRoot takes a VM with a private disk through its life under a metald of an ordinary user.
func TestMetaldNeedNotBeRoot(t *testing.T) {
	var uid uint32
	if os.Getuid() == 0 {
		uid = nobody
	}
	home := homeOf(t, uid)
	assets := filepath.Join(home, "assets")
	d := harness.Start(t, harness.Options{
		StateDir: filepath.Join(home, "state"), AssetsDir: assets, UID: uid,
		Env: []string{"UNKEY_METALD_QEMU_ACCEL=tcg", "UNKEY_METALD_QEMU_BINARY=" + stubvmm.BuildQEMU(t)},
	})
	guest := harness.Guest(assets, "private", "")
	guest.Config.Storage[0].Path = filepath.Join(assets, "private.raw")
	if _, err := d.Client.CreateVm(t.Context(), connect.NewRequest(guest)); connect.CodeOf(err) != connect.CodeInvalidArgument ||
		!strings.Contains(err.Error(), "config.storage[0].path") || !strings.Contains(err.Error(), "may not read") {
		t.Errorf("a template that metald may not read: %v", err)
	}
	guest = harness.Guest(assets, "mine", "")
	if _, err := d.Client.CreateVm(t.Context(), connect.NewRequest(guest)); err != nil {
		t.Fatalf("create: %v\n%s", err, d.Log())
	}
	if _, err := d.Client.BootVm(t.Context(), connect.NewRequest(&pb.BootVmRequest{VmId: "mine"})); err != nil {
		t.Errorf("boot: %v", err)
	}
	if _, err := d.Client.DeleteVm(t.Context(), connect.NewRequest(&pb.DeleteVmRequest{VmId: "mine", Force: true})); err != nil {
		t.Errorf("delete: %v", err)
	}
}

// homeOf makes a directory of a user's own, with assets for the stand-in in it.
func homeOf(t *testing.T, uid uint32) string {
	t.Helper()
	home, err := os.MkdirTemp("", "m")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(home) })
	if err := os.CopyFS(filepath.Join(home, "assets"), os.DirFS(harness.StubAssets(t))); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(home, "assets/private.raw"), nil, 0); err != nil { // nobody but root can read it
		t.Fatal(err)
	}
	if uid != 0 {
		if err := os.Chown(home, int(uid), int(uid)); err != nil {
			t.Fatal(err)
		}
	}
	return home
}
