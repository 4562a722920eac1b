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
func BuildQEMU(tb testing.TB) string {
	tb.Helper()
	dir, err := os.MkdirTemp("", "stub")
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { os.RemoveAll(dir) })
	binary, err := BuildQEMUIn(dir)
	if err != nil {
		tb.Fatal(err)
	}
	return binary
}

// BuildQEMUIn builds it in dir, for a TestMain, and opens dir to the users that VMMs run as.
func BuildQEMUIn(dir string) (string, error) {
	if err := os.Chmod(dir, 0o755); err != nil {
		return "", err
	}
	binary := filepath.Join(dir, "stub-qemu")
	out, err := exec.Command("go", "build", "-o", binary,
		"github.com/unkeyed/unkey/go/deploy/metald/internal/backend/stubvmm/cmd/stub-qemu").CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("build stub-qemu: %w\n%s", err, out)
	}
	return binary, nil
}
