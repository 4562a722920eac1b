package cage

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"syscall"

	"github.com/unkeyed/unkey/go/deploy/metald/internal/backend/types"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/host/cgroup"
)

// Config says how VMMs are kept apart.
type Config struct {
	// Counting is for VMMs that are not kept apart: their cgroups count CPU time, and nothing else here means anything.
	Counting bool

	Dir string // absolute path of the directory that holds jails; of one metald, whose cgroups are named by it

	NetNamespace bool // each VMM has an empty network namespace of its own
	PIDNamespace bool // and is the first process of a PID namespace

	MemoryBytes  int64  // most memory that a VM's cgroup may have, the VMM's headroom included; 0: what each VM needs
	CPUPercent   int    // most CPU time of a VM in percent of one CPU; 0: no limit
	MaxOpenFiles uint64 // of one VMM; 0: as many as metald
	IOBytes      int64  // most bytes per second that a VM may read, and write, on each of its disks' devices; 0: no limit
}

// Cage is the cgroup of the cgroups of one backend's VMs. It is safe for concurrent use.
type Cage struct {
	config *Config
	suffix string

	mu     sync.Mutex // guards the opening
	root   *cgroup.Root
	parent *cgroup.Parent
	name   string
}

// New returns a cage that touches nothing before Open. Cages of one directory need different suffixes. Without a config
// it only removes what an earlier metald left.
func New(config *Config, suffix string) *Cage { return &Cage{config: config, suffix: suffix} }

// Open makes the directory and the cgroup, where they are not there yet. It is repeatable.
func (c *Cage) Open() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.parent != nil {
		return nil
	}
	if err := os.MkdirAll(c.config.Dir, 0o700); err != nil {
		return fmt.Errorf("directory of the jails: %w", err)
	}
	var st syscall.Stat_t
	if err := syscall.Stat(c.config.Dir, &st); err != nil {
		return fmt.Errorf("directory of the jails: %w", &os.PathError{Op: "stat", Path: c.config.Dir, Err: err})
	}
	root, err := c.find()
	if err != nil {
		return types.Errorf(types.KindPrecondition, "jails need cgroups: %w", err)
	}
	// By the directory, which is of one metald: two of them are not in each other's way.
	name := fmt.Sprintf("metald/%x-%x%s", st.Dev, st.Ino, c.suffix)
	parent, err := root.Open(name)
	if err != nil {
		return types.Errorf(types.KindPrecondition, "jails need cgroups: %w", err)
	}
	c.root, c.parent, c.name = root, parent, name
	return nil
}

// Name is the cgroup's, below the root of the hierarchies, once the cage is open.
func (c *Cage) Name() string { return c.name }

// Version is that of the host's cgroups, 1 or 2, once the cage is open.
func (c *Cage) Version() int { return c.root.Version() }

// Parent is the cgroup, once the cage is open.
func (c *Cage) Parent() *cgroup.Parent { return c.parent }

// above returns the group that the cgroups of VMs are in: this metald's own, or that of a handle of before the directory
// of the jails was another.
func (c *Cage) above(name string) (*cgroup.Parent, error) {
	c.mu.Lock()
	parent, own := c.parent, c.name
	c.mu.Unlock()
	if parent != nil && name == own {
		return parent, nil
	}
	root, err := c.find()
	if err != nil {
		return nil, err
	}
	return root.Open(name)
}

// find finds the host's cgroups that are used here.
func (c *Cage) find() (*cgroup.Root, error) {
	root, err := cgroup.Find()
	if err == nil && c.config != nil && c.config.Counting {
		root = root.Counting()
	}
	return root, err
}

// RemoveGroup removes the cgroup of a VM in the one called parent, and ends what is still in it.
func (c *Cage) RemoveGroup(ctx context.Context, parent, name string) error {
	above, err := c.above(parent)
	if err != nil {
		return fmt.Errorf("remove the cgroup of jail %s: %w", name, err)
	}
	group, err := above.Group(name)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if err := group.Kill(ctx); err != nil {
		return err
	}
	return group.Remove(ctx)
}

// Sweep removes the cgroups of VMMs that are not known, by their names. What cannot be removed holds up nothing else.
func (c *Cage) Sweep(ctx context.Context, known map[string]bool, log *slog.Logger) error {
	groups, err := c.parent.List()
	errs := []error{err}
	for _, name := range groups {
		if !known[name] {
			log.Warn("removing a cgroup that belongs to no VM", "cgroup", c.name+"/"+name)
			errs = append(errs, c.RemoveGroup(ctx, c.name, name))
		}
	}
	return errors.Join(errs...)
}
