package firecracker

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"path/filepath"
	"time"

	"github.com/unkeyed/unkey/go/deploy/metald/internal/backend/cage"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/backend/program"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/backend/tally"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/backend/types"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/console"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/host/jail"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/vmmprocess"
)

// vmmName is what backend_info calls it.
const vmmName = "Firecracker"

// handleVersion is the form of the handles that this metald writes, and the only one that it reads.
const handleVersion = 1

// Config is what a Backend needs. Supervisor, Drainer and Log are required.
type Config struct {
	Binary        string        // absolute path of firecracker; "" looks on PATH each time one is needed
	JailerBinary  string        // likewise of jailer, where VMMs are jailed
	Jail          *cage.Config  // nil runs Firecracker without its jailer, as the VM's user
	StateDir      string        // where the verdict about KVM is kept; "" keeps it in memory only
	CanaryTimeout time.Duration // how long that trial may take; 0 is 10 s
	MustProve     bool          // KVM that could not be tried makes the backend unusable: who chooses it unasked is to know
	CanaryKernel  string        // kernel of the trial boot that proves KVM; where there is none, nothing is proven

	Supervisor *vmmprocess.Supervisor
	Drainer    *console.Drainer
	Log        *slog.Logger
}

// Backend makes Firecracker machines. It is safe for concurrent use.
type Backend struct {
	cfg      Config
	programs program.Programs[version]
	kernels  kernels
	cage     *cage.Cage
}

var _ types.Backend = (*Backend)(nil)

// New returns a Backend. It touches nothing of the host.
func New(cfg Config) (*Backend, error) {
	paths := map[string]string{"firecracker": cfg.Binary}
	if cfg.Jail != nil {
		paths["jailer"] = cfg.JailerBinary
		if !filepath.IsAbs(cfg.Jail.Dir) {
			return nil, fmt.Errorf("the directory of the jails %q is not absolute", cfg.Jail.Dir)
		}
	}
	for name, path := range paths {
		if path != "" && !filepath.IsAbs(path) {
			return nil, fmt.Errorf("the path of %s %q is not absolute", name, path)
		}
	}
	return &Backend{cfg: cfg, cage: cage.New(cfg.Jail, "")}, nil
}

// Name returns "firecracker".
func (b *Backend) Name() string { return Name }

// Capabilities says what Firecracker can do; interfaces need the host's network namespace, where the taps are.
func (b *Backend) Capabilities() types.Capabilities {
	c := capabilities()
	if b.cfg.Jail != nil && b.cfg.Jail.NetNamespace {
		c.Fields[types.FieldNetwork] = types.Support{
			Note: "each VMM has a network namespace of its own, where the host's tap devices are not; UNKEY_METALD_JAILER_NETNS=false lets VMs have interfaces",
		}
	}
	return c
}

// vmm returns the firecracker and, where VMMs are jailed, the jailer to use.
func (b *Backend) vmm(ctx context.Context) (firecracker, jailer binary, err error) {
	firecracker, err = b.programs.Find(ctx, b.cfg.Binary, firecrackerProgram)
	if err != nil || b.cfg.Jail == nil {
		return firecracker, binary{}, err
	}
	jailer, err = b.programs.Find(ctx, b.cfg.JailerBinary, jailerProgram)
	if err == nil && jailer.Version != firecracker.Version {
		err = types.Errorf(types.KindPrecondition, "%s is of version %s and %s of version %s; both must be of one release",
			jailer.Path, jailer.Version, firecracker.Path, firecracker.Version)
	}
	return firecracker, jailer, err
}

// private is this backend's part of a handle.
type private struct {
	UID      uint32      `json:"uid"`
	GID      uint32      `json:"gid"`
	Jail     *jailed     `json:"jail,omitempty"` // nil for a VMM without a jail
	Root     string      `json:"root,omitempty"` // where such a VMM runs; "" is in its run directory
	Lent     []jail.Loan `json:"lent,omitempty"` // files that were given to the VM's user
	LentTaps []tapLoan   `json:"lentTaps,omitempty"`
	// Lead is how far the CPU clock is ahead of the cgroup, see cage.Lead; 0 where that is not known yet. It is measured
	// when the VMM is there, after Commit, and saved with what the handle is by then.
	Lead time.Duration `json:"lead,omitempty"`
	Taps tally.Taps    `json:"taps,omitempty"`
}

// tapLoan is a tap that is the VM's user's, and whose it was.
type tapLoan struct {
	Name string `json:"name"`
	UID  uint32 `json:"uid"`
}

// jailed is what finds a jail again, whatever the configuration says by then.
type jailed struct {
	Base   string `json:"base"`
	Exec   string `json:"exec"` // the name of the executable, by which the jailer names jails
	ID     string `json:"id"`
	Cgroup string `json:"cgroup"` // the parent's name
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

// Reap kills the Firecracker of a handle, if it is still that one, and removes everything of it. Of its usage what the
// host counts is known; its metrics ended with it.
func (b *Backend) Reap(ctx context.Context, h types.Handle) (types.Usage, error) {
	p, err := checkHandle(h)
	if err != nil {
		return types.Usage{}, err
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), killTimeout)
	defer cancel()
	last, err := tally.Last(ctx, b.cfg.Supervisor, h, p.Taps)
	if err != nil {
		return types.Usage{}, fmt.Errorf("reap Firecracker of VM %s: %w", h.VM, err)
	}
	home := home{cage: b.cage, runDir: h.RunDir, private: p}
	last.CPUTime = home.finalCPU(last.CPUTime)
	return last, home.remove(ctx)
}
