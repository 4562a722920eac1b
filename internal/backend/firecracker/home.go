package firecracker

import (
	"context"
	"errors"
	"fmt"
	"net"
	"path/filepath"
	"time"

	"github.com/unkeyed/unkey/go/deploy/metald/internal/backend/cage"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/host/dir"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/host/jail"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/host/tap"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/vmmprocess"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/vmmprocess/jailer"
)

// What is in a run directory. It is metald's alone: what the VMM can write to is below its root.
const (
	rootName   = "root"   // of a VMM without a jail
	stderrName = "stderr" // a FIFO, for standard output and error
)

// home is everything that one Firecracker has on the host but its process.
type home struct {
	cage    *cage.Cage // the Backend's
	runDir  string
	private private
}

// root is the directory that is the VMM's root, or that it starts in where it has no jail.
func (h home) root() (string, error) {
	j := h.private.Jail
	switch {
	case j == nil && h.private.Root != "":
		return h.private.Root, nil
	case j == nil:
		return filepath.Join(h.runDir, rootName), nil
	}
	l, err := jailer.LayoutOf(j.Base, "/"+j.Exec, j.ID)
	return l.Root, err
}

// inside is the path by which the VMM finds what has this name in its root.
func (h home) inside(name string) string {
	if h.private.Jail != nil {
		return jailer.Inside(name)
	}
	return name // from its working directory
}

// remove removes all of it. No process of it is alive. It is repeatable; what cannot be removed holds up nothing else.
func (h home) remove(ctx context.Context) error {
	return errors.Join(h.removeGroup(ctx), h.removeJail(ctx), h.restoreLent(), h.removeRunDir(ctx))
}

// finalCPU is what a VMM that has ended used: see cage.FinalCPU.
func (h home) finalCPU(clock *time.Duration) *time.Duration {
	if h.private.Jail == nil {
		return clock
	}
	return h.cage.FinalCPU(clock, h.private.Jail.Cgroup, h.private.Jail.ID, h.private.Lead)
}

// compare finds out how far the clock of a VMM is ahead of its cgroup, where that is not known yet.
func (h *home) compare(pid int) {
	if h.private.Jail != nil && h.private.Lead == 0 {
		h.private.Lead = h.cage.Lead(pid, h.private.Jail.Cgroup, h.private.Jail.ID)
	}
}

func (h home) removeGroup(ctx context.Context) error {
	if h.private.Jail == nil {
		return nil
	}
	return h.cage.RemoveGroup(ctx, h.private.Jail.Cgroup, h.private.Jail.ID)
}

func (h home) removeJail(ctx context.Context) error {
	if h.private.Jail == nil {
		if h.private.Root == "" {
			return nil // it is in the run directory
		}
		return dir.RemoveContext(ctx, h.private.Root)
	}
	root, err := h.root()
	if err != nil {
		return err
	}
	return jail.Remove(ctx, filepath.Dir(root))
}

// restoreLent gives back what was lent to the VM's user.
func (h home) restoreLent() error {
	errs := []error{cage.Restore(h.private.Lent)}
	for _, t := range h.private.LentTaps {
		errs = append(errs, h.restoreTap(t))
	}
	return errors.Join(errs...)
}

// restoreTap gives a tap back that is still the VM's user's. One that is not was never lent, or is somebody else's now.
func (h home) restoreTap(t tapLoan) error {
	now, err := tap.Owner(t.Name)
	if errors.Is(err, tap.ErrAbsent) || err == nil && now != h.private.UID {
		return nil
	}
	if err != nil {
		return err
	}
	return tap.Give(t.Name, t.UID)
}

func (h home) removeRunDir(ctx context.Context) error { return dir.RemoveContext(ctx, h.runDir) }

// dial connects to the API of the VMM with this pid. Nothing is said to anybody else: the VMM could have put another
// socket in the place of its own.
func dial(j *jail.Jail, pid int) func(context.Context) (net.Conn, error) {
	return func(ctx context.Context) (net.Conn, error) {
		conn, err := j.Dial(ctx, jailer.Socket)
		if err != nil {
			return nil, err
		}
		if peer, err := vmmprocess.PeerPID(conn); err != nil || peer != pid {
			conn.Close()
			return nil, errors.Join(err, fmt.Errorf("process %d listens on the API's socket and not process %d", peer, pid))
		}
		return conn, nil
	}
}
