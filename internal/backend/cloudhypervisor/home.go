package cloudhypervisor

import (
	"context"
	"errors"
	"fmt"
	"net"
	"path/filepath"

	"github.com/unkeyed/unkey/go/deploy/metald/internal/backend/cage"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/host/dir"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/host/jail"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/vmmprocess"
)

// What is in a run directory. It is metald's alone: what the VMM can write to is below its root, where it starts.
const (
	rootName   = "root"
	stderrName = "stderr"         // a FIFO, for standard error
	eventsName = "events"         // a FIFO, for standard output, where the events come
	partedName = "console.parted" // is there where metald let go of the console in good order
)

// What is in the root beside the VM's files.
const (
	socketsDir   = "run"
	apiSocket    = socketsDir + "/api.socket"    // made by the VMM
	serialSocket = socketsDir + "/serial.socket" // likewise, with the VM
)

// home is everything that one Cloud Hypervisor has on the host but its process.
type home struct {
	cage    *cage.Cage // the Backend's
	runDir  string
	private private
}

// root is the directory that the VMM starts in, and finds its files in.
func (h home) root() string { return filepath.Join(h.runDir, rootName) }

// remove removes all of it. No process of it is alive. It is repeatable; what cannot be removed holds up nothing else.
func (h home) remove(ctx context.Context) error {
	return errors.Join(h.removeGroup(ctx), cage.Restore(h.private.Lent), h.removeRunDir(ctx))
}

func (h home) removeGroup(ctx context.Context) error {
	if h.private.Group == nil {
		return nil
	}
	return h.cage.RemoveGroup(ctx, h.private.Group.Parent, h.private.Group.Name)
}

func (h home) removeRunDir(ctx context.Context) error {
	if h.private.Mounted {
		return jail.Remove(ctx, h.runDir)
	}
	return dir.RemoveContext(ctx, h.runDir)
}

// dialTo connects to a socket of the VMM with this pid. Nothing is said to anybody else: the VMM could have put another
// socket in the place of its own.
func dialTo(j *jail.Jail, name string, pid int) func(context.Context) (*net.UnixConn, error) {
	return func(ctx context.Context) (*net.UnixConn, error) {
		conn, err := j.Dial(ctx, name)
		if err != nil {
			return nil, err
		}
		if peer, err := vmmprocess.PeerPID(conn); err != nil || peer != pid {
			conn.Close()
			return nil, errors.Join(err, fmt.Errorf("process %d listens on %s and not process %d", peer, name, pid))
		}
		return conn, nil
	}
}

// dial is dialTo for a client.
func dial(j *jail.Jail, pid int) func(context.Context) (net.Conn, error) {
	return func(ctx context.Context) (net.Conn, error) {
		conn, err := dialTo(j, apiSocket, pid)(ctx)
		if err != nil {
			return nil, err
		}
		return conn, nil
	}
}
