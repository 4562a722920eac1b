package qemu

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"os/exec"
	"path/filepath"
	"time"

	"github.com/unkeyed/unkey/go/deploy/metald/internal/backend/tally"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/backend/types"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/console"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/host/dir"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/host/kvm"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/kernelimage"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/vmmprocess"
)

// Name selects this backend.
const Name = "qemu"

// vmmName is what backend_info calls it.
const vmmName = "QEMU"

// handleVersion is the form of the handles that this metald writes, and the only one that it reads.
const handleVersion = 1

// Config is what a Backend needs. Supervisor, Drainer and Log are required.
type Config struct {
	Binary       string // absolute path of qemu-system-x86_64; "" looks on PATH each time one is needed
	Accel        string // "auto", "kvm" or "tcg"; "" is auto
	StateDir     string // where the verdict about KVM is kept; "" keeps it in memory only
	CanaryKernel string // kernel of the trial boot that decides about KVM; "" means that auto never takes KVM
	// CanaryTimeout is how long the trial boot may take; 0 is 5 s. A host that is emulated itself needs more.
	CanaryTimeout time.Duration

	Supervisor *vmmprocess.Supervisor
	Drainer    *console.Drainer
	Log        *slog.Logger
}

// Backend makes QEMU machines. It is safe for concurrent use.
type Backend struct {
	cfg     Config
	tscKHz  int
	kernels kernelimage.Opener
	accel   accelerator
}

var _ types.Backend = (*Backend)(nil)

// New returns a Backend. It touches nothing of the host but /proc/cpuinfo; Prepare does what can be done before the
// first VM.
func New(cfg Config) (*Backend, error) {
	switch cfg.Accel {
	case "":
		cfg.Accel = accelAuto
	case accelAuto, accelKVM, accelTCG:
	default:
		return nil, fmt.Errorf("QEMU's accelerator %q is none of auto, kvm, tcg", cfg.Accel)
	}
	if cfg.Binary != "" && !filepath.IsAbs(cfg.Binary) {
		return nil, fmt.Errorf("QEMU's path %q is not absolute", cfg.Binary)
	}
	if cfg.CanaryTimeout == 0 {
		cfg.CanaryTimeout = canaryTimeout
	}
	b := &Backend{cfg: cfg, tscKHz: hostTSC(), kernels: kernelimage.Opener{VMM: "QEMU"}}
	b.accel = accelerator{mode: cfg.Accel, turn: make(chan struct{}, 1), probe: kvm.Probe, canary: b.canary, log: cfg.Log}
	return b, nil
}

// Name returns "qemu".
func (b *Backend) Name() string { return Name }

// Prepare decides about KVM, where that has to be tried, so that the first Create need not wait for it: up to five
// seconds in the mode auto, and in the mode kvm, whose error says why KVM cannot be used.
func (b *Backend) Prepare(ctx context.Context) error {
	_, err := b.accel.choose(ctx)
	return err
}

// binary returns the path of QEMU.
func (b *Backend) binary() (string, error) {
	if b.cfg.Binary != "" {
		return b.cfg.Binary, nil
	}
	path, err := exec.LookPath("qemu-system-x86_64")
	if err != nil {
		return "", types.Errorf(types.KindPrecondition, "there is no qemu-system-x86_64 on PATH; install the package qemu-system-x86")
	}
	return filepath.Abs(path)
}

// private is this backend's part of a handle.
type private struct {
	Accel string     `json:"accel"`
	Taps  tally.Taps `json:"taps,omitempty"`
}

func (p private) encode() json.RawMessage {
	b, err := json.Marshal(p)
	if err != nil {
		panic(err) // strings and numbers
	}
	return b
}

func checkHandle(h types.Handle) (p private, err error) {
	err = h.Decode(Name, handleVersion, &p)
	return p, err
}

// Sweep finds nothing: a QEMU has nothing outside of its run directory.
func (b *Backend) Sweep(context.Context, []types.Handle) error { return nil }

// Reap kills the QEMU of a handle, if it is still that one, and removes its run directory. Of its usage what the host
// counts is known: QEMU itself is not asked.
func (b *Backend) Reap(ctx context.Context, h types.Handle) (types.Usage, error) {
	p, err := checkHandle(h)
	if err != nil {
		return types.Usage{}, err
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), killTimeout)
	defer cancel()
	last, err := tally.Last(ctx, b.cfg.Supervisor, h, p.Taps)
	if err != nil {
		return types.Usage{}, fmt.Errorf("reap QEMU of VM %s: %w", h.VM, err)
	}
	return last, dir.Remove(h.RunDir)
}
