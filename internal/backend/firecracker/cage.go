package firecracker

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/unkeyed/unkey/go/deploy/metald/internal/backend/cage"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/backend/types"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/host/jail"
)

// overhead is what a VM's cgroup may have beyond its guest's: Firecracker's own memory is some 5 MiB (SPECIFICATION.md),
// the kernel's tables for the guest's memory are a part of it, and the pages of disks that are being written need room.
// It has three threads beside one per vCPU, and what a device may need.
var overhead = cage.Overhead{VMM: vmmName, Bytes: 64 << 20, Part: 64, Threads: 32}

// openCage makes the directory of the jails and the cgroup of their cgroups, where they are not there yet.
func (b *Backend) openCage() error {
	if err := os.MkdirAll(b.cfg.Jail.Dir, 0o700); err != nil {
		return fmt.Errorf("directory of the jails: %w", err)
	}
	if err := jail.CheckBase(b.cfg.Jail.Dir); err != nil {
		return types.Errorf(types.KindPrecondition, "%w", err)
	}
	return b.cage.Open()
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
	if err := b.openCage(); err != nil {
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
	errs := []error{jail.SweepTrash(ctx, b.cfg.Jail.Dir), b.cage.Sweep(ctx, known, b.cfg.Log)}
	jails, err := jail.List(b.cfg.Jail.Dir)
	errs = append(errs, err)
	for _, j := range jails {
		if !known[j.ID] {
			b.cfg.Log.Warn("removing a jail that belongs to no VM", "path", j.Dir)
			errs = append(errs, jail.Remove(ctx, j.Dir))
		}
	}
	return errors.Join(errs...)
}
