// Package stubvmm builds the stand-ins for VMMs that tests run: small programs that speak each VMM's protocol and are
// as strict as it is. metald never runs one unless it is told that this is its VMM's binary.
package stubvmm

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// BuildQEMU builds the stand-in for qemu-system-x86_64 in a directory that tb removes, and returns its path. Its knobs
// are kernel arguments, see the package qemu below this one.
func BuildQEMU(tb testing.TB) string { return buildFor(tb, BuildQEMUIn) }

// BuildQEMUIn builds it in dir, for a TestMain, and opens dir to the users that VMMs run as.
func BuildQEMUIn(dir string) (string, error) { return build(dir, "stub-qemu", "stub-qemu") }

// BuildFirecracker builds the stand-in for Firecracker in a directory that tb removes, and returns its path. It is
// static, so that it runs in a jail. Its knobs are kernel arguments and a file beside it, see the package firecracker
// below this one.
func BuildFirecracker(tb testing.TB) string { return buildFor(tb, BuildFirecrackerIn) }

// BuildFirecrackerIn builds it in dir, for a TestMain, and opens dir to the users that VMMs run as. It is named as
// Firecracker is, which is how its jails and its pid file are named, too.
func BuildFirecrackerIn(dir string) (string, error) {
	return build(dir, "firecracker", "stub-firecracker")
}

// BuildJailer builds the stand-in for Firecracker's jailer in a directory that tb removes, and returns its path.
func BuildJailer(tb testing.TB) string { return buildFor(tb, BuildJailerIn) }

// BuildJailerIn builds it in dir, for a TestMain.
func BuildJailerIn(dir string) (string, error) { return build(dir, "jailer", "stub-jailer") }

// BuildCloudHypervisor builds the stand-in for Cloud Hypervisor in a directory that tb removes, and returns its path. Its
// knobs are kernel arguments and a file beside it, see the package cloudhypervisor below this one. It boots KernelPVH.
func BuildCloudHypervisor(tb testing.TB) string { return buildFor(tb, BuildCloudHypervisorIn) }

// BuildCloudHypervisorIn builds it in dir, for a TestMain, and opens dir to the users that VMMs run as. It is named as
// Cloud Hypervisor is.
func BuildCloudHypervisorIn(dir string) (string, error) {
	return build(dir, "cloud-hypervisor", "stub-cloud-hypervisor")
}

func buildFor(tb testing.TB, in func(dir string) (string, error)) string {
	tb.Helper()
	dir, err := os.MkdirTemp("", "stub")
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { os.RemoveAll(dir) })
	binary, err := in(dir)
	if err != nil {
		tb.Fatal(err)
	}
	return binary
}

// prebuilt is the variable with the directory of stand-ins that are built already, each called as its command. It is set
// where there is no Go to build them with.
const prebuilt = "METALD_TEST_STUBS"

func build(dir, name, command string) (string, error) {
	if err := os.Chmod(dir, 0o755); err != nil {
		return "", err
	}
	binary := filepath.Join(dir, name)
	if from := os.Getenv(prebuilt); from != "" {
		return binary, place(filepath.Join(from, command), binary)
	}
	cmd := exec.Command("go", "build", "-trimpath", "-ldflags", "-s -w", "-o", binary,
		"github.com/unkeyed/unkey/go/deploy/metald/internal/backend/stubvmm/cmd/"+command)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build %s: %w\n%s", command, err, out)
	}
	return binary, nil
}

// place copies a program, as those who run it may put files beside it.
func place(from, to string) error {
	content, err := os.ReadFile(from)
	if err != nil {
		return fmt.Errorf("%s names no directory of stand-ins: %w", prebuilt, err)
	}
	if err := os.WriteFile(to, content, 0o755); err != nil {
		return err
	}
	return os.Chmod(to, 0o755) // whatever the umask
}
