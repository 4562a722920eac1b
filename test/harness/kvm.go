package harness

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/unkeyed/unkey/go/deploy/metald/internal/host/kvm"
)

// OpenKVM is, for Options.Under, a command that gives metald a /dev/kvm that others than root may open, which it wants
// to see where VMMs are not jailed; nil where the host's is so. A stand-in never opens it.
func OpenKVM(tb testing.TB) []string {
	tb.Helper()
	if kvm.OthersOpen() == nil {
		return nil
	}
	if _, err := os.Stat("/dev/kvm"); err != nil {
		tb.Skip(err)
	}
	script := `rm -f "$0" && mknod -m 666 "$0" c 10 232 && mount --bind "$0" /dev/kvm && exec "$@"`
	return []string{"unshare", "--mount", "/bin/sh", "-c", script, filepath.Join(tb.TempDir(), "kvm")}
}
