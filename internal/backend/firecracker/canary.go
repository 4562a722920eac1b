package firecracker

import (
	"cmp"
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"time"

	"github.com/unkeyed/unkey/go/deploy/metald/internal/backend/program"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/host/kvm"
)

const (
	// canaryTimeout is how long the trial guest may take. It comes up in a fraction of a second, and in some seconds
	// where the host is itself emulated.
	canaryTimeout = 10 * time.Second
	// canaryFile keeps the verdict, in the state directory.
	canaryFile = "firecracker-canary.json"
)

// trial boots a guest that comes up by KVM, by the Firecracker at path.
func (b *Backend) trial(path string) program.Trial {
	t := program.Trial{
		VMM: vmmName, Path: path, Kernel: b.cfg.CanaryKernel, Timeout: cmp.Or(b.cfg.CanaryTimeout, canaryTimeout), Log: b.cfg.Log,
		Args: func(dir string) ([]string, error) {
			config := filepath.Join(dir, "vm.json")
			args := []string{"--id", "metald-canary", "--no-api", "--config-file", config, "--level", "Error"}
			return args, os.WriteFile(config, canaryConfig(b.cfg.CanaryKernel), 0o600)
		},
	}
	if b.cfg.StateDir != "" {
		t.Keep = filepath.Join(b.cfg.StateDir, canaryFile)
	}
	return t
}

// canary returns what an earlier trial on this boot of the host found, or what a new one does.
func (b *Backend) canary(ctx context.Context) (kvm.Verdict, error) {
	firecracker, _, err := b.vmm(ctx)
	if err != nil {
		return kvm.Verdict{}, err
	}
	return b.trial(firecracker.Path).Verdict(ctx)
}

// canaryConfig is the smallest VM, whose kernel finds no disk.
func canaryConfig(kernel string) []byte {
	b, err := json.Marshal(map[string]any{
		"boot-source":    bootSource{KernelImagePath: kernel, BootArgs: "console=ttyS0 reboot=k panic=1 i8042.noaux i8042.nomux i8042.dumbkbd"},
		"drives":         []drive{},
		"machine-config": machineConfig{VCPUCount: 1, MemSizeMiB: 128},
	})
	if err != nil {
		panic(err) // strings and numbers
	}
	return b
}
