package cloudhypervisor

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
	"github.com/unkeyed/unkey/go/deploy/metald/internal/vmmprocess"
)

// What is in a run directory. It is metald's alone: what the VMM can write to is below its root, where it starts.
const (
	rootName    = "root"
	stderrName  = "stderr"  // a FIFO, for standard error
	consoleName = "console" // a FIFO, for standard output, which is the guest's serial port; missing without a console
	eventsName  = "events"  // a FIFO, which the VMM gets as an open file
)

// What is in the root beside the VM's files.
const (
	socketsDir = "run"
	apiSocket  = socketsDir + "/api.socket" // made by the VMM
)

// home is everything that one Cloud Hypervisor has on the host but its process.
type home struct {
	cage    *cage.Cage // the Backend's
	runDir  string
	private private
}

// root is the directory that the VMM starts in, and finds its files in.
func (h home) root() string {
	if h.private.Root != "" {
		return h.private.Root
	}
	return filepath.Join(h.runDir, rootName)
}

// remove removes all of it. No process of it is alive. It is repeatable; what cannot be removed holds up nothing else.
func (h home) remove(ctx context.Context) error {
	return errors.Join(h.removeGroup(ctx), cage.Restore(h.private.Lent), h.removeRunDir(ctx))
}

// finalCPU is what a VMM that has ended used: see cage.FinalCPU.
func (h home) finalCPU(clock *time.Duration) *time.Duration {
	if h.private.Group == nil {
		return clock
	}
	return h.cage.FinalCPU(clock, h.private.Group.Parent, h.private.Group.Name, h.private.Lead)
}

// compare finds out how far the clock of a VMM is ahead of its cgroup, where that is not known yet.
func (h *home) compare(pid int) {
	if h.private.Group != nil && h.private.Lead == 0 {
		h.private.Lead = h.cage.Lead(pid, h.private.Group.Parent, h.private.Group.Name)
	}
}

func (h home) removeGroup(ctx context.Context) error {
	if h.private.Group == nil {
		return nil
	}
	return h.cage.RemoveGroup(ctx, h.private.Group.Parent, h.private.Group.Name)
}

func (h home) removeRunDir(ctx context.Context) error {
	remove := dir.RemoveContext
	if h.private.Mounted {
		remove = jail.Remove
	}
	var apart error
	if h.private.Root != "" {
		apart = remove(ctx, h.private.Root)
	}
	return errors.Join(apart, remove(ctx, h.runDir))
}

// dial connects to the API of the VMM with this pid. Nothing is said to anybody else: the VMM could have put another
// socket in the place of its own.
func dial(j *jail.Jail, pid int) func(context.Context) (net.Conn, error) {
	return func(ctx context.Context) (net.Conn, error) {
		conn, err := j.Dial(ctx, apiSocket)
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
