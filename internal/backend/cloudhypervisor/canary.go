package cloudhypervisor

import (
	"cmp"
	"path/filepath"
	"time"

	"github.com/unkeyed/unkey/go/deploy/metald/internal/backend/program"
)

const (
	// canaryTimeout is how long the trial guest may take. It comes up in a fraction of a second, and in some seconds
	// where the host is itself emulated.
	canaryTimeout = 10 * time.Second
	// canaryFile keeps the verdict, in the state directory.
	canaryFile = "cloudhypervisor-canary.json"
)

// trial boots a guest that comes up by KVM, by the cloud-hypervisor at path.
func (b *Backend) trial(path string) program.Trial {
	t := program.Trial{
		VMM: vmmName, Path: path, Timeout: cmp.Or(b.cfg.CanaryTimeout, canaryTimeout), Log: b.cfg.Log,
		Kernel: b.cfg.CanaryKernel,
	}
	if kernel, err := bootable(b.kernels, b.cfg.CanaryKernel); err == nil {
		t.Kernel = kernel
	}
	t.Args = func(string) ([]string, error) { return canaryArgs(t.Kernel), nil }
	if b.cfg.StateDir != "" {
		t.Keep = filepath.Join(b.cfg.StateDir, canaryFile)
	}
	return t
}

// canaryArgs are the smallest VM, whose kernel finds no disk, with its console on standard output.
func canaryArgs(kernel string) []string {
	return []string{
		"--kernel", kernel, "--cmdline", "console=ttyS0 reboot=k panic=1", "--cpus", "boot=1", "--memory", "size=128M",
		"--serial", "tty", "--console", "off", "--seccomp", "true",
	}
}
