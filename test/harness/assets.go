package harness

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	pb "github.com/unkeyed/unkey/go/deploy/metald/gen/vmprovisioner/v1"
)

// QuickStartArgs are the kernel arguments of the documented quick start.
const QuickStartArgs = "console=ttyS0 reboot=k panic=1 pci=off"

// Assets returns the directory of the tests' kernel and root disk: METALD_TEST_ASSETS, or build/vm-assets of
// this tree. It skips the test where QEMU or the assets are missing, unless METALD_TEST_ASSETS promised them.
func Assets(tb testing.TB) string {
	tb.Helper()
	dir := os.Getenv("METALD_TEST_ASSETS")
	skip := tb.Skipf
	if dir != "" {
		skip = tb.Fatalf
	}
	if _, err := exec.LookPath("qemu-system-x86_64"); err != nil {
		skip("this machine has no qemu-system-x86_64; `make packages` installs it")
	}
	if dir == "" {
		dir = filepath.Join(root(tb), "build", "vm-assets")
	}
	if _, err := os.Stat(filepath.Join(dir, "rootfs.ext4")); err != nil {
		skip("there are no VM assets: %v; `make vm-assets` makes them", err)
	}
	return dir
}

// root is the top of the source tree.
func root(tb testing.TB) string {
	tb.Helper()
	dir, err := os.Getwd()
	if err != nil {
		tb.Fatal(err)
	}
	for ; dir != "/"; dir = filepath.Dir(dir) {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			return dir
		}
	}
	tb.Fatal("this test does not run inside the source tree")
	return ""
}

// Guest asks for a VM of the quick start's shape: 1 vCPU, 128 MiB, one root disk. args are added to the kernel's.
func Guest(assets, id, args string) *pb.CreateVmRequest {
	return &pb.CreateVmRequest{VmId: id, Config: &pb.VmConfig{
		Cpu:     &pb.CpuConfig{VcpuCount: 1},
		Memory:  &pb.MemoryConfig{SizeBytes: 128 << 20},
		Boot:    &pb.BootConfig{KernelPath: filepath.Join(assets, "vmlinux"), KernelArgs: QuickStartArgs + " " + args},
		Storage: []*pb.StorageDevice{{Path: filepath.Join(assets, "rootfs.ext4")}},
	}}
}
