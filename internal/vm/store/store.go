// Package store keeps one Record per VM over restarts of metald and of the host.
package store

import (
	"time"

	"github.com/unkeyed/unkey/go/deploy/metald/internal/backend/types"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/vm/lifecycle"
)

// Phase is how far a record has come. A record in a phase other than Live is an intent: after a crash it is
// rolled back (Creating) or forward (Deleting).
type Phase string

// The phases of a record.
const (
	Creating Phase = "creating"
	Live     Phase = "live"
	Deleting Phase = "deleting"
)

// Version is the version of Record that this code writes.
const Version = 1

// Record is everything that must survive of a VM. It is saved before anything is touched on its behalf.
type Record struct {
	Version int             `json:"version"`
	ID      types.VMID      `json:"id"`
	Seq     uint64          `json:"seq"`  // order of creation; never used twice on a host
	Slot    uint32          `json:"slot"` // smallest free number; what can be allocated per VM derives from it
	Phase   Phase           `json:"phase"`
	State   lifecycle.State `json:"state"`
	Tenant  string          `json:"tenant,omitempty"` // who is billed; "" in records from before there were tenants
	Spec    types.Spec      `json:"spec"`
	Backend string          `json:"backend"`

	Volumes []Volume `json:"volumes,omitempty"`

	Incarnation uint64        `json:"incarnation"`
	Handle      *types.Handle `json:"handle,omitempty"` // of the VMM; nil when there is none
	VMM         string        `json:"vmm,omitempty"`
	VMMVersion  string        `json:"vmmVersion,omitempty"`

	CreatedAt  time.Time   `json:"createdAt"`
	ModifiedAt time.Time   `json:"modifiedAt"`
	BootedAt   time.Time   `json:"bootedAt,omitzero"`
	Exit       *types.Exit `json:"exit,omitempty"`
	ExitedAt   time.Time   `json:"exitedAt,omitzero"`

	// RebootBy is set while a reboot waits for the guest: an exit before then is followed by a boot.
	RebootBy time.Time `json:"rebootBy,omitzero"`
}

// Volume is a file that a VM holds for as long as it exists: by device, inode and time of birth, so that another
// file under the same path is not mistaken for it.
type Volume struct {
	Disk     int    `json:"disk"` // index into Spec.Disks
	Device   uint64 `json:"device"`
	Inode    uint64 `json:"inode"`
	Born     int64  `json:"born,omitempty"` // unix nanoseconds; 0 where the filesystem does not keep it
	ReadOnly bool   `json:"readOnly"`
}

// Store keeps Records. It is safe for concurrent use; what Put and Delete return nil for is durable.
type Store interface {
	Put(Record) error
	Delete(types.VMID) error

	// All returns every record, ordered by Seq.
	All() ([]Record, error)

	// LastSeq returns the largest Seq that was ever put, also of records that are gone.
	LastSeq() (uint64, error)

	Close() error
}
