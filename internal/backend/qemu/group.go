package qemu

import (
	"context"
	"os"
	"time"

	"github.com/unkeyed/unkey/go/deploy/metald/internal/backend/cage"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/backend/types"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/host/cgroup"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/vmmprocess"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/vmmprocess/jailer"
)

// group is what finds the cgroup of a QEMU again. It counts the CPU time, and limits nothing: the CPU clock of a process
// misses what its threads do in their last moments, and is gone with a process that is not metald's child.
type group struct {
	Parent string `json:"parent"`
	Name   string `json:"name"`
	// Lead is how far the CPU clock is ahead of the cgroup, see cage.Lead; 0 where that is not known.
	Lead time.Duration `json:"lead,omitempty"`
}

// groups returns the cgroups of QEMUs, and nil where there are none: metald is not root, or the host's do not count.
func (b *Backend) groups() *cage.Cage {
	if os.Geteuid() != 0 || b.cfg.GroupsDir == "" {
		return nil
	}
	if err := b.cage.Open(); err != nil {
		b.uncounted.Do(func() {
			b.cfg.Log.Warn("QEMUs have no cgroups, so their CPU time is what their clocks say at the last moment", "error", err)
		})
		return nil
	}
	return b.cage
}

// count makes the cgroup that QEMU is started in.
func (l *launch) count() error {
	cage := l.backend.groups()
	if cage == nil {
		return nil
	}
	g := group{Parent: cage.Name(), Name: groupName(l.req.ID, l.req.Incarnation)}
	made, err := cage.Parent().Make(g.Name, cgroup.Limits{})
	if err == nil {
		l.private.Group, l.group = &g, made
	}
	return err
}

func groupName(id types.VMID, incarnation uint64) string { return jailer.IDOf(string(id), incarnation) }

// enter has QEMU be born in its cgroup, or join it.
func (l *launch) enter(c *vmmprocess.Command) (err error) {
	if l.group != nil {
		c.BornIn, c.Joins, err = l.group.Entrances(l.req.UID)
	}
	return err
}

// compare notes how far the clock of a QEMU that waits for its first cont is ahead of its cgroup.
func (m *machine) compare(b *Backend) {
	if g := m.private.Group; g != nil && g.Lead == 0 {
		g.Lead = b.cage.Lead(m.handle.Process.PID, g.Parent, g.Name)
		m.handle.Private = m.private.encode()
	}
}

// finalCPU is what a QEMU that has ended used: see cage.FinalCPU.
func (b *Backend) finalCPU(p private, clock *time.Duration) *time.Duration {
	if p.Group == nil {
		return clock
	}
	return b.cage.FinalCPU(clock, p.Group.Parent, p.Group.Name, p.Group.Lead)
}

func (b *Backend) removeGroup(ctx context.Context, p private) error {
	if p.Group == nil {
		return nil
	}
	return b.cage.RemoveGroup(ctx, p.Group.Parent, p.Group.Name)
}

// Sweep removes the cgroups of QEMUs that no handle names: their metald died before it had committed one, and they never
// ran. All else of them is in their run directories.
func (b *Backend) Sweep(ctx context.Context, keep []types.Handle) error {
	known := map[string]bool{}
	for _, h := range keep {
		known[groupName(h.VM, h.Incarnation)] = true // also where the handle is another's: in doubt a VM is left alone
	}
	cage := b.groups()
	if cage == nil {
		return nil
	}
	return cage.Sweep(ctx, known, b.cfg.Log)
}
