package firecracker

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"syscall"

	"github.com/unkeyed/unkey/go/deploy/metald/internal/backend/types"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/host/cgroup"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/host/jail"
)

// What a VM's cgroup may have beyond the memory of its guest: Firecracker's own is some 5 MiB (SPECIFICATION.md), the
// kernel's tables for the guest's memory are a part of it, and the pages of disks that are being written need room.
const (
	headroomBytes = 64 << 20
	headroomPart  = 64 // one 64th of the guest's memory on top
)

// threadsBesideVCPUs is how many threads Firecracker has beside one per vCPU: three, and what a device may need.
const threadsBesideVCPUs = 32

// cage is the directory of the jails and the cgroup of their cgroups, both of this metald alone.
type cage struct {
	config     *JailConfig
	root       *cgroup.Root
	parent     *cgroup.Parent
	parentName string

	mu sync.Mutex // guards the opening
}

// openCage makes the directory and the cgroup, where they are not there yet.
func (b *Backend) openCage() (*cage, error) {
	c := &b.cage
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.parent != nil {
		return c, nil
	}
	c.config = b.cfg.Jail
	if err := os.MkdirAll(c.config.Dir, 0o700); err != nil {
		return nil, fmt.Errorf("directory of the jails: %w", err)
	}
	if err := jail.CheckBase(c.config.Dir); err != nil {
		return nil, types.Errorf(types.KindPrecondition, "%w", err)
	}
	var st syscall.Stat_t
	if err := syscall.Stat(c.config.Dir, &st); err != nil {
		return nil, fmt.Errorf("directory of the jails: %w", &os.PathError{Op: "stat", Path: c.config.Dir, Err: err})
	}
	root, err := cgroup.Find()
	if err != nil {
		return nil, types.Errorf(types.KindPrecondition, "jails need cgroups: %w", err)
	}
	// By the directory, which is of one metald: two of them are not in each other's way.
	c.parentName = fmt.Sprintf("metald/%x-%x", st.Dev, st.Ino)
	parent, err := root.Open(c.parentName)
	if err != nil {
		return nil, types.Errorf(types.KindPrecondition, "jails need cgroups: %w", err)
	}
	c.root, c.parent = root, parent
	return c, nil
}

// above returns the group that the cgroups of jails are in: this metald's own, or that of a handle of before the directory
// of the jails was another.
func (c *cage) above(name string) (*cgroup.Parent, error) {
	c.mu.Lock()
	parent, own := c.parent, c.parentName
	c.mu.Unlock()
	if parent != nil && name == own {
		return parent, nil
	}
	root, err := cgroup.Find()
	if err != nil {
		return nil, err
	}
	return root.Open(name)
}

// removeGroup removes the cgroup of a jail, and ends what is still in it.
func (c *cage) removeGroup(ctx context.Context, parent, name string) error {
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

// limits are those of one VM.
func (c *cage) limits(spec types.Spec, disks []string) (cgroup.Limits, error) {
	need := spec.Memory.SizeBytes + headroomBytes + spec.Memory.SizeBytes/headroomPart
	if most := c.config.MemoryBytes; most != 0 && need > most {
		return cgroup.Limits{}, types.FieldErrorf(types.KindInvalid, "config.memory.size_bytes",
			"with Firecracker's own the VM needs %d bytes, and UNKEY_METALD_JAILER_MEMORY_LIMIT is %d", need, most)
	}
	l := cgroup.Limits{
		MemoryBytes: uint64(need), CPUQuota: uint32(c.config.CPUPercent), PIDs: uint32(spec.CPU.Count + threadsBesideVCPUs),
	}
	if c.config.IOBytes == 0 {
		return l, nil
	}
	seen := map[[2]uint32]bool{}
	for i, path := range disks {
		major, minor, err := cgroup.DeviceOf(path)
		if err != nil {
			return l, types.FieldErrorf(types.KindPrecondition, fmt.Sprintf("config.storage[%d].path", i),
				"UNKEY_METALD_JAILER_IO_LIMIT cannot be kept for this disk: %w", plain(err))
		}
		if !seen[[2]uint32{major, minor}] {
			seen[[2]uint32{major, minor}] = true
			bps := uint64(c.config.IOBytes)
			l.IO = append(l.IO, cgroup.IOLimit{Major: major, Minor: minor, ReadBPS: bps, WriteBPS: bps})
		}
	}
	return l, nil
}

// Sweep removes the jails and cgroups of VMMs that no handle names: their metald died before it had committed one, and
// they never ran.
func (b *Backend) Sweep(ctx context.Context, keep []types.Handle) error {
	if b.cfg.Jail == nil {
		return nil
	}
	if _, err := os.Stat(b.cfg.Jail.Dir); errors.Is(err, os.ErrNotExist) {
		return nil // nor was there ever a jail
	}
	c, err := b.openCage()
	if err != nil {
		return err
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
		if p.Jail != nil {
			known[p.Jail.ID] = true
		}
	}
	groups, err := c.parent.List()
	errs := []error{err, jail.SweepTrash(ctx, c.config.Dir)}
	for _, name := range groups {
		if !known[name] {
			b.cfg.Log.Warn("removing a cgroup that belongs to no VM", "cgroup", c.parentName+"/"+name)
			errs = append(errs, c.removeGroup(ctx, c.parentName, name))
		}
	}
	jails, err := jail.List(c.config.Dir)
	errs = append(errs, err)
	for _, j := range jails {
		if !known[j.ID] {
			b.cfg.Log.Warn("removing a jail that belongs to no VM", "path", j.Dir)
			errs = append(errs, jail.Remove(ctx, j.Dir))
		}
	}
	return errors.Join(errs...)
}
