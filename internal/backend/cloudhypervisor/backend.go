package cloudhypervisor

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"github.com/unkeyed/unkey/go/deploy/metald/internal/backend/cage"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/backend/program"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/backend/tally"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/backend/types"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/console"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/host/jail"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/kernelimage"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/vmmprocess"
)

// vmmName is what backend_info calls it.
const vmmName = "Cloud Hypervisor"

// handleVersion is the form of the handles that this metald writes, and the only one that it reads.
const handleVersion = 1

// Config is what a Backend needs. Supervisor, Drainer and Log are required.
type Config struct {
	Binary        string        // absolute path of cloud-hypervisor; "" looks on PATH each time one is needed
	Jail          *cage.Config  // nil runs Cloud Hypervisor as the VM's user and without limits
	StateDir      string        // where the verdict about KVM is kept; "" keeps it in memory only
	CanaryTimeout time.Duration // how long that trial may take; 0 is 10 s
	MustProve     bool          // KVM that could not be tried makes the backend unusable: who chooses it unasked is to know
	CanaryKernel  string        // kernel of the trial boot that proves KVM; where there is none, nothing is proven

	Supervisor *vmmprocess.Supervisor
	Drainer    *console.Drainer
	Log        *slog.Logger
}

// Backend makes Cloud Hypervisor machines. It is safe for concurrent use.
type Backend struct {
	cfg      Config
	programs program.Programs[version]
	kernels  *kernelimage.Opener
	cage     *cage.Cage
}

var _ types.Backend = (*Backend)(nil)

// New returns a Backend. It touches nothing of the host.
func New(cfg Config) (*Backend, error) {
	if cfg.Binary != "" && !filepath.IsAbs(cfg.Binary) {
		return nil, fmt.Errorf("the path of cloud-hypervisor %q is not absolute", cfg.Binary)
	}
	if cfg.Jail != nil && !filepath.IsAbs(cfg.Jail.Dir) {
		return nil, fmt.Errorf("the directory of the jails %q is not absolute", cfg.Jail.Dir)
	}
	return &Backend{cfg: cfg, kernels: newKernels(), cage: cage.New(cfg.Jail, "."+Name)}, nil
}

// Name returns "cloudhypervisor".
func (b *Backend) Name() string { return Name }

// Capabilities says what Cloud Hypervisor can do. In a network namespace of its own it gets taps as open files, and
// cannot ask for their MTU.
func (b *Backend) Capabilities() types.Capabilities {
	c := capabilities()
	if b.cfg.Jail != nil && b.cfg.Jail.NetNamespace {
		s := c.Fields[types.FieldNetwork]
		s.Note = "on an existing tap device; guests have Ethernet's MTU of 1500, and that of the tap with UNKEY_METALD_JAILER_NETNS=false"
		c.Fields[types.FieldNetwork] = s
	}
	return c
}

// vmm returns the cloud-hypervisor to use.
func (b *Backend) vmm(ctx context.Context) (executable, error) {
	return b.programs.Find(ctx, b.cfg.Binary, cloudHypervisor)
}

// private is this backend's part of a handle.
type private struct {
	Root    string      `json:"root,omitempty"` // where the VMM runs; "" is in its run directory
	UID     uint32      `json:"uid"`
	GID     uint32      `json:"gid"`
	Group   *group      `json:"group,omitempty"` // nil for a VMM without limits
	Lent    []jail.Loan `json:"lent,omitempty"`  // files that were given to the VM's user
	Mounted bool        `json:"mounted,omitempty"`
	// Lead is how far the CPU clock is ahead of the cgroup, see cage.Lead; 0 where that is not known yet. It is measured
	// when the VMM is there, after Commit, and saved with what the handle is by then.
	Lead    time.Duration `json:"lead,omitempty"`
	Taps    tally.Taps    `json:"taps,omitempty"`
	Version string        `json:"version"` // of Cloud Hypervisor, before anybody asked it
}

// group is what finds a cgroup again, whatever the configuration says by then.
type group struct {
	Parent string `json:"parent"`
	Name   string `json:"name"`
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

// Reap kills the Cloud Hypervisor of a handle, if it is still that one, and removes everything of it. Of its usage what
// the host counts is known; its own counters ended with it.
func (b *Backend) Reap(ctx context.Context, h types.Handle) (types.Usage, error) {
	p, err := checkHandle(h)
	if err != nil {
		return types.Usage{}, err
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), killTimeout)
	defer cancel()
	last, err := tally.Last(ctx, b.cfg.Supervisor, h, p.Taps)
	if err != nil {
		return types.Usage{}, fmt.Errorf("reap Cloud Hypervisor of VM %s: %w", h.VM, err)
	}
	home := home{cage: b.cage, runDir: h.RunDir, private: p}
	last.CPUTime = home.finalCPU(last.CPUTime)
	return last, home.remove(ctx)
}

// Sweep removes the cgroups of VMMs that no handle names: their metald died before it had committed one, and they never
// ran. All else of them is in their run directories.
func (b *Backend) Sweep(ctx context.Context, keep []types.Handle) error {
	if b.cfg.Jail == nil {
		return nil
	}
	if _, err := os.Stat(b.cfg.Jail.Dir); errors.Is(err, os.ErrNotExist) {
		return nil // nor was there ever a cgroup
	}
	known := map[string]bool{}
	for _, h := range keep {
		if h.Backend != Name {
			continue
		}
		p, err := checkHandle(h)
		if err != nil {
			return fmt.Errorf("nothing is removed, because it is not known whose it is: %w", err)
		}
		if p.Group != nil {
			known[p.Group.Name] = true
		}
	}
	if err := b.cage.Open(); err != nil {
		return err
	}
	return b.cage.Sweep(ctx, known, b.cfg.Log)
}
