// Package vm is the manager: it holds every VM of this host, decides what is legal, and drives each from what
// it was asked to be to what it is observed to be.
package vm

import (
	"context"
	"time"

	"github.com/unkeyed/unkey/go/deploy/metald/internal/backend/types"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/console"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/vm/lifecycle"
)

// Info is what is known of one VM at one moment: a copy, safe to keep.
type Info struct {
	ID          types.VMID
	Seq         uint64 // order of creation on this host
	Spec        types.Spec
	State       lifecycle.State
	CreatedAt   time.Time
	ModifiedAt  time.Time // last change of State
	BootedAt    time.Time // when this incarnation was seen running; zero if never
	Backend     string
	VMM         string // "QEMU"; "" if none was ever started
	VMMVersion  string
	PID         int // of the live VMM, 0 if there is none
	Incarnation uint64
	Exit        *types.Exit // how the last VMM ended; nil while one is alive
	ExitedAt    time.Time
	Health      string // "" or, in words, why the VMM cannot be reached
}

// ListQuery selects a page of VMs in order of creation.
type ListQuery struct {
	States []lifecycle.State // nil: all
	After  uint64            // only VMs whose Seq is larger
	Limit  int               // at least 1
}

// ListPage is a page of VMs; Next is the After of the next page, 0 at the end. Total counts all that match States.
type ListPage struct {
	VMs   []Info
	Next  uint64
	Total int
}

// Manager holds the VMs of this host.
type Manager struct{}

// Create makes a VM and its VMM, which does not run yet. An empty id gets a random one. The same id with the
// same spec returns the VM as it is; with another spec KindExists.
func (m *Manager) Create(ctx context.Context, id types.VMID, spec types.Spec) (Info, error) {
	panic("unwritten")
}

// Boot starts the guest; after a shutdown it starts a new incarnation.
func (m *Manager) Boot(ctx context.Context, id types.VMID) (Info, error) { panic("unwritten") }

// Pause stops the guest's vCPUs.
func (m *Manager) Pause(ctx context.Context, id types.VMID) (Info, error) { panic("unwritten") }

// Resume lets a paused guest go on.
func (m *Manager) Resume(ctx context.Context, id types.VMID) (Info, error) { panic("unwritten") }

// Shutdown asks the guest to power off and waits up to timeout for the VMM to end; with force it ends the VMM.
// A guest that did not stop in time is left running and the error is KindDeadline.
func (m *Manager) Shutdown(ctx context.Context, id types.VMID, force bool, timeout time.Duration) (Info, error) {
	panic("unwritten")
}

// Reboot shuts down as Shutdown does and boots a new incarnation with the same disks.
func (m *Manager) Reboot(ctx context.Context, id types.VMID, force bool, timeout time.Duration) (Info, error) {
	panic("unwritten")
}

// Delete removes a VM and everything that it had on this host.
func (m *Manager) Delete(ctx context.Context, id types.VMID, force bool) error { panic("unwritten") }

// Get returns what is known of a VM.
func (m *Manager) Get(id types.VMID) (Info, error) { panic("unwritten") }

// Usage returns a reading of a running or paused VM that is at most 100 ms old.
func (m *Manager) Usage(ctx context.Context, id types.VMID) (types.Usage, error) { panic("unwritten") }

// List returns a page of VMs.
func (m *Manager) List(q ListQuery) ListPage { panic("unwritten") }

// Console returns the console log of a VM; it outlives the VM's incarnations and ends with its deletion.
func (m *Manager) Console(id types.VMID) (*console.Log, error) { panic("unwritten") }
