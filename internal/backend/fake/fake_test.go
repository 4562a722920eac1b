package fake_test

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/unkeyed/unkey/go/deploy/metald/internal/backend/conformance"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/backend/fake"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/backend/types"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/vm"
)

func TestConformance(t *testing.T) {
	defer goleak.VerifyNone(t)
	assets := t.TempDir()
	kernel, root := filepath.Join(assets, "vmlinux"), filepath.Join(assets, "rootfs.ext4")
	for path, content := range map[string]string{kernel: "\x7fELF and so on", root: string(make([]byte, 1<<16))} {
		if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	host := fake.NewHost()
	conformance.Run(t, conformance.Harness{
		NewBackend: func(testing.TB) types.Backend { return fake.New(host) },
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
	})
	for _, fault := range host.Faults() {
		t.Error(fault)
	}
}
