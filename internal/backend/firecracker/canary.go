package firecracker

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"syscall"
	"time"

	"github.com/unkeyed/unkey/go/deploy/metald/internal/backend/types"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/console"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/host/kvm"
)

const (
	// canaryTimeout is how long the trial guest may take. It comes up in a fraction of a second, and in some seconds
	// where the host is itself emulated.
	canaryTimeout = 10 * time.Second
	// canaryFile keeps the verdict, in the state directory.
	canaryFile = "firecracker-canary.json"
)

// proveKVM boots a guest that comes up by KVM, or says why it did not. On some hosts /dev/kvm opens, Firecracker starts
// its guest, and the guest stands still. Where there is no kernel to try it with, nothing is proven, and only what must be is refused.
func (b *Backend) proveKVM(ctx context.Context) error {
	if v := kvm.Probe(); !v.Usable {
		return types.Errorf(types.KindPrecondition, "KVM cannot be used on this host: %s", v.Why)
	}
	if b.cfg.CanaryKernel == "" || b.kernels.check(b.cfg.CanaryKernel) != nil {
		if b.cfg.MustProve {
			return types.Errorf(types.KindPrecondition, "whether KVM runs guests on this host is not known: there is no kernel %q for a trial; make vm-assets makes one, UNKEY_METALD_BACKEND=firecracker does without", b.cfg.CanaryKernel)
		}
		b.cfg.Log.Warn("whether KVM runs guests on this host is not proven: there is no kernel for a trial", "kernel", b.cfg.CanaryKernel)
		return nil
	}
	v, err := b.canary(ctx)
	if err != nil {
		return err
	}
	if !v.Usable {
		return types.Errorf(types.KindPrecondition, "KVM cannot be used on this host: %s", v.Why)
	}
	return nil
}

// canary returns what an earlier trial on this boot of the host found, or what a new one does.
func (b *Backend) canary(ctx context.Context) (kvm.Verdict, error) {
	firecracker, _, err := b.vmm(ctx)
	if err != nil {
		return kvm.Verdict{}, err
	}
	kernel, err := os.Open(b.cfg.CanaryKernel)
	if err != nil {
		return kvm.Verdict{}, err
	}
	defer kernel.Close()
	trial, err := kvm.TrialOf(firecracker.Path, kernel)
	if err != nil {
		return kvm.Verdict{}, err
	}
	path := filepath.Join(b.cfg.StateDir, canaryFile)
	if b.cfg.StateDir != "" {
		if v, ok := kvm.Recall(path, trial); ok {
			if !v.Usable {
				v.Why += "; that was found at an earlier start, and is tried again once " + path + " is removed"
			}
			return v, nil
		}
	}
	v, err := tryKVM(ctx, firecracker.Path, b.cfg.CanaryKernel, cmp.Or(b.cfg.CanaryTimeout, canaryTimeout))
	if err == nil && b.cfg.StateDir != "" {
		if err := kvm.Keep(path, trial, v); err != nil {
			b.cfg.Log.Warn("the verdict about KVM could not be kept; it will be tried again at the next start", "error", err)
		}
	}
	return v, err
}

// tryKVM boots kernel alone and waits for its last words. Firecracker is a process of its own, and dies with metald: it
// is nobody's VM.
func tryKVM(ctx context.Context, path, kernel string, limit time.Duration) (kvm.Verdict, error) {
	dir, err := os.MkdirTemp("", "metald-canary")
	if err != nil {
		return kvm.Verdict{}, err
	}
	defer os.RemoveAll(dir)
	config := filepath.Join(dir, "vm.json")
	if err := os.WriteFile(config, canaryConfig(kernel), 0o600); err != nil {
		return kvm.Verdict{}, err
	}
	caller := ctx
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	screen := kvm.NewScreen(cancel)
	stderr := &console.Tail{}
	cmd := exec.CommandContext(ctx, path, "--id", "metald-canary", "--no-api", "--config-file", config, "--level", "Error")
	cmd.Stdout, cmd.Stderr = screen, stderr
	cmd.Env, cmd.WaitDelay = []string{}, killTimeout
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Pdeathsig: syscall.SIGKILL}
	// The death signal comes when the thread ends that started the process.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	began := time.Now()
	err = cmd.Run()
	took := time.Since(began).Round(time.Millisecond)
	switch {
	case screen.Marker() != "":
		return kvm.Verdict{Usable: true, Why: fmt.Sprintf("a trial guest came up within %s", took)}, nil
	case caller.Err() != nil: // which says nothing of KVM
		return kvm.Verdict{}, fmt.Errorf("a trial of KVM was given up: %w", context.Cause(caller))
	case ctx.Err() != nil:
		return kvm.Verdict{Why: fmt.Sprintf("a trial guest did not come up within %s", limit)}, nil
	case stderr.String() != "":
		return kvm.Verdict{Why: fmt.Sprintf("Firecracker ended in a trial (%v): %s", err, stderr)}, nil
	}
	return kvm.Verdict{Why: fmt.Sprintf("a trial guest ended without coming up (%v)", err)}, nil
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
