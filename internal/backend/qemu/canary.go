package qemu

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"syscall"
	"time"

	"github.com/unkeyed/unkey/go/deploy/metald/internal/console"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/host/kvm"
)

const (
	// canaryTimeout is how long the trial guest may take, unless Config says otherwise. By KVM it takes a fraction of a second.
	canaryTimeout = 5 * time.Second
	// canaryFile keeps the verdict, in the state directory.
	canaryFile = "kvm-canary.json"
)

// canary says whether a kernel comes up by KVM: from what an earlier trial on this boot of the host found, or by a
// trial. An error says that none could be made.
func (b *Backend) canary(ctx context.Context) (kvm.Verdict, error) {
	binary, err := b.binary()
	if err != nil {
		return kvm.Verdict{}, err
	}
	if b.cfg.CanaryKernel == "" {
		return kvm.Verdict{}, errors.New("there is no kernel to try it with")
	}
	kernel, err := b.kernels.Open(b.cfg.CanaryKernel)
	if err != nil {
		return kvm.Verdict{}, fmt.Errorf("there is no kernel to try it with: %w", err)
	}
	defer kernel.Close()
	key, err := kvm.TrialOf(binary, kernel)
	if err != nil {
		return kvm.Verdict{}, err
	}
	path := filepath.Join(b.cfg.StateDir, canaryFile)
	if v, ok := kvm.Recall(path, key); ok && b.cfg.StateDir != "" {
		return v, nil
	}
	v := tryKVM(ctx, binary, kernel, b.cfg.CanaryTimeout)
	if ctx.Err() == nil && b.cfg.StateDir != "" {
		if err := kvm.Keep(path, key, v); err != nil {
			b.cfg.Log.Warn("the verdict about KVM could not be kept; it will be tried again at the next start", "error", err)
		}
	}
	return v, nil
}

// tryKVM boots kernel alone and waits for its last words, up to limit. QEMU is a process of its own, as a hanging KVM can hold up
// the end of a process that uses it, and dies with metald: it is nobody's VM.
func tryKVM(ctx context.Context, binary string, kernel *os.File, limit time.Duration) kvm.Verdict {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	screen := kvm.NewScreen(cancel)
	stderr := &console.Tail{}
	cmd := exec.CommandContext(ctx, binary, canaryArguments(3)...)
	cmd.Stdout, cmd.Stderr = screen, stderr
	cmd.ExtraFiles = []*os.File{kernel}
	cmd.Env = []string{}
	cmd.WaitDelay = killTimeout
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Pdeathsig: syscall.SIGKILL}
	// The death signal comes when the thread ends that started the process.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	began := time.Now()
	err := cmd.Run()
	took := time.Since(began).Round(time.Millisecond)
	switch {
	case screen.Marker() != "":
		return kvm.Verdict{Usable: true, Why: fmt.Sprintf("a trial guest came up within %s", took)}
	case ctx.Err() != nil:
		return kvm.Verdict{Why: fmt.Sprintf("a trial guest did not come up within %s", limit)}
	case stderr.String() != "":
		return kvm.Verdict{Why: fmt.Sprintf("QEMU ended in a trial (%v): %s", err, stderr)}
	}
	return kvm.Verdict{Why: fmt.Sprintf("a trial guest ended without coming up (%v)", err)}
}

// canaryArguments boots the kernel that is open as fd with its console on standard output.
func canaryArguments(fd int) []string {
	return []string{
		"-name", "guest=kvm-canary,debug-threads=on", "-machine", "microvm,acpi=on,rtc=on", "-accel", "kvm", "-cpu", "host", "-m", "128M", "-smp", "1",
		"-nodefaults", "-no-user-config", "-display", "none", "-no-reboot", "-sandbox", sandbox,
		"-chardev", "stdio,id=console,signal=off", "-serial", "chardev:console",
		"-kernel", fmt.Sprintf("/proc/self/fd/%d", fd), "-append", "console=ttyS0 reboot=t panic=-1",
	}
}
