// Package onfake is how the conformance suite reaches backends whose machines are fake.
package onfake

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/unkeyed/unkey/go/deploy/metald/internal/backend/conformance"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/backend/fake"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/backend/types"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/vm"
)

// Harness returns one for backends over host, as newBackend makes them. It has every ability.
func Harness(tb testing.TB, host *fake.Host, newBackend func() types.Backend) conformance.Harness {
	tb.Helper()
	assets := tb.TempDir()
	kernel, root := filepath.Join(assets, "vmlinux"), filepath.Join(assets, "rootfs.ext4")
	for path, content := range map[string]string{kernel: "\x7fELF and so on", root: string(make([]byte, 1<<16))} {
		if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
			tb.Fatal(err)
		}
	}
	return conformance.Harness{
		NewBackend: func(testing.TB) types.Backend { return newBackend() },
		AssetsDir:  assets, Kernel: kernel, RootDisk: root,
		BootTimeout: 10 * time.Second,
		KillVMM:     func(_ testing.TB, info vm.Info) { host.Kill(info.ID) },
		MuteVMM: func(_ testing.TB, info vm.Info) func() {
			host.Mute(info.ID, true)
			return func() { host.Mute(info.ID, false) }
		},
		Leftovers: func(testing.TB, string) (left []string) {
			for _, id := range host.Alive() {
				left = append(left, fmt.Sprintf("the VMM of %q", id))
			}
			return left
		},
	}
}
