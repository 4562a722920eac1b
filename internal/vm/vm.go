// Package vm is the manager: it holds every VM of this host, decides what is legal, and drives each from what
// it was asked to be to what it is observed to be.
//
// Every VM has a queue of operations and, while there is one to do, a runner goroutine that does them in order:
// operations on one VM never overlap, and VMs never wait for each other. What readers see is a snapshot that the
// runner publishes, so reading never waits at all.
package vm

import (
	"time"

	"github.com/unkeyed/unkey/go/deploy/metald/internal/backend/types"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/vm/lifecycle"
)

// Info is what is known of one VM at one moment: a copy, safe to keep. The maps in Spec are shared; they are
// never written to.
type Info struct {
	ID          types.VMID
	Seq         uint64 // order of creation on this host
	Tenant      string // who is billed; Unattributed where nobody was named
	Spec        types.Spec
	State       lifecycle.State
	CreatedAt   time.Time
	ModifiedAt  time.Time // last change of State
	BootedAt    time.Time // when this incarnation was seen running; zero if never
	Backend     string
	VMM         string // "QEMU"; "" if none was ever started
	VMMVersion  string
	PID         int                   // of the live VMM, 0 if there is none
	Process     types.ProcessIdentity // likewise
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
