package program

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"runtime"
	"syscall"
	"time"

	"github.com/unkeyed/unkey/go/deploy/metald/internal/backend/types"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/console"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/host/kvm"
)

// endTimeout is how long the kernel may take to end a trial's VMM.
const endTimeout = 5 * time.Second

// Trial is a boot by which a VMM proves that KVM runs guests. On some hosts /dev/kvm opens, a VMM starts its guest, and
// the guest stands still.
type Trial struct {
	VMM     string        // its name, for people
	Path    string        // of its executable
	Kernel  string        // "" proves nothing
	Keep    string        // the file that keeps the verdict until something of the trial changes; "" for none
	Timeout time.Duration // how long the guest may take
	Log     *slog.Logger

	// Args are the arguments by which the VMM boots the kernel, and nothing else, with its console on standard output. dir
	// is for files that they name.
	Args func(dir string) ([]string, error)
}

// Prove returns nil where the trial's guest came up.
func (t Trial) Prove(ctx context.Context) error {
	v, err := t.Verdict(ctx)
	if err == nil && !v.Usable {
		err = types.Errorf(types.KindPrecondition, "KVM cannot be used on this host: %s", v.Why)
	}
	return err
}

// Verdict is what an earlier trial on this boot of the host found, or what a new one does.
func (t Trial) Verdict(ctx context.Context) (kvm.Verdict, error) {
	kernel, err := os.Open(t.Kernel)
	if err != nil {
		return kvm.Verdict{}, err
	}
	defer kernel.Close()
	key, err := kvm.TrialOf(t.Path, kernel)
	if err != nil {
		return kvm.Verdict{}, err
	}
	if t.Keep != "" {
		if v, ok := kvm.Recall(t.Keep, key); ok {
			if !v.Usable {
				v.Why += "; that was found at an earlier start, and is tried again once " + t.Keep + " is removed"
			}
			return v, nil
		}
	}
	v, err := t.run(ctx)
	if err == nil && t.Keep != "" {
		if err := kvm.Keep(t.Keep, key, v); err != nil {
			t.Log.Warn("the verdict about KVM could not be kept; it will be tried again at the next start", "error", err)
		}
	}
	return v, err
}

// run boots the kernel and waits for its last words. The VMM is a process of its own, and dies with metald: it is
// nobody's VM.
func (t Trial) run(ctx context.Context) (kvm.Verdict, error) {
	dir, err := os.MkdirTemp("", "metald-canary")
	if err != nil {
		return kvm.Verdict{}, err
	}
	defer os.RemoveAll(dir)
	args, err := t.Args(dir)
	if err != nil {
		return kvm.Verdict{}, err
	}
	caller := ctx
	ctx, cancel := context.WithTimeout(ctx, t.Timeout)
	defer cancel()
	screen := kvm.NewScreen(cancel)
	stderr := &console.Tail{}
	cmd := exec.CommandContext(ctx, t.Path, args...)
	cmd.Stdout, cmd.Stderr = screen, stderr
	cmd.Env, cmd.WaitDelay = []string{}, endTimeout
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
		return kvm.Verdict{Why: fmt.Sprintf("a trial guest did not come up within %s", t.Timeout)}, nil
	case stderr.String() != "":
		return kvm.Verdict{Why: fmt.Sprintf("%s ended in a trial (%v): %s", t.VMM, err, stderr)}, nil
	}
	return kvm.Verdict{Why: fmt.Sprintf("a trial guest ended without coming up (%v)", err)}, nil
}

// KVM says whether KVM runs guests: by a trial, where there is a kernel for it, which is one that check takes. Where
// there is none nothing is proven, which is an error with must: who chooses a backend unasked is to know.
func (t Trial) KVM(ctx context.Context, backend string, check func(kernel string) error, must bool) error {
	if v := kvm.Probe(); !v.Usable {
		return types.Errorf(types.KindPrecondition, "KVM cannot be used on this host: %s", v.Why)
	}
	if t.Kernel != "" && check(t.Kernel) == nil {
		return t.Prove(ctx)
	}
	if must {
		return types.Errorf(types.KindPrecondition, "whether KVM runs guests on this host is not known: there is no kernel %q for a trial; make vm-assets makes one, UNKEY_METALD_BACKEND=%s does without", t.Kernel, backend)
	}
	t.Log.Warn("whether KVM runs guests on this host is not proven: there is no kernel for a trial", "kernel", t.Kernel)
	return nil
}
