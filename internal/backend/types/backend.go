// Package types is the seam between the VM manager and the VMMs: what a backend is given, what it returns, and
// the errors both sides speak.
package types

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"path/filepath"
	"time"

	"github.com/unkeyed/unkey/go/deploy/metald/internal/vm/lifecycle"
)

// Backend starts and re-adopts machines of one hypervisor. It keeps no list of them; the manager does.
// Its methods are safe for concurrent use and hold no lock across I/O.
type Backend interface {
	// Name is the value of UNKEY_METALD_BACKEND that selects it.
	Name() string

	// Capabilities says what of a Spec this backend can do. It is data: it never changes while metald runs.
	Capabilities() Capabilities

	// Check says in words what this host lacks for the backend to work; nil means usable.
	Check(ctx context.Context) error

	// Prepare finds out what takes time to find out, so that the first Create need not. It runs beside the API
	// until it is done or ctx ends; its error is logged, and Create says it again where it matters.
	Prepare(ctx context.Context) error

	// Create starts a VMM that holds the guest, configured and not yet running. It is all or nothing: after an
	// error no process, socket or file of it is left. The process never depends on ctx once Create returned.
	//
	// Errors: KindInvalid with a field for what the VMM refuses in the spec (a kernel that is none),
	// KindUnsupported, KindExhausted, KindUnavailable where the VMM died or did not answer.
	Create(ctx context.Context, req CreateRequest) (Machine, error)

	// Adopt takes over a machine of an earlier metald. It returns an error that wraps ErrGone if that process
	// is no more, and KindUnavailable if it is alive and does not answer: it may be tried again.
	Adopt(ctx context.Context, req AdoptRequest) (Machine, error)

	// Reap ends the process of a handle, if it is still that process, and removes what it left. Repeatable.
	// It is for machines that cannot be adopted or were never finished.
	//
	// What can still be known of what it used in all is returned, with an error too; what cannot is nil. The first call
	// takes away where it is read, so that a later one may know less.
	Reap(ctx context.Context, h Handle) (Usage, error)

	// Sweep removes what machines of an earlier metald left outside of their run directories, but for those whose
	// handles are given: an earlier metald may have died before it had committed one. It is called before any Create,
	// and what cannot be removed holds up nothing else.
	Sweep(ctx context.Context, keep []Handle) error
}

// CreateRequest is what a backend needs to start one incarnation of a VM.
type CreateRequest struct {
	ID          VMID
	Incarnation uint64 // 1 for the first VMM of a VM, one more for each that follows
	Spec        Spec

	Kernel string   // host path that Spec.Boot.KernelPath came to
	Initrd string   // likewise; "" for none
	Disks  []string // host paths, one per Spec.Disks

	RunDir   string    // the directory to make for sockets and logs; its parent exists. Removed by Destroy
	RootDir  string    // the directory to make for files that the VMM opens by name, on the disks' file system; "" is in RunDir
	UID, GID uint32    // whom the VMM should run as; 0 is metald's own user
	Console  io.Writer // takes the guest's console output; never blocks for long

	// Ended, where it is set, is called once after Exited was closed, by a goroutine of the backend's. It does not
	// block. So nobody needs a goroutine per machine to wait for its end.
	Ended func()

	// Stopped, where it is set, is called when the VMM says that its guest was stopped, and nobody asked for it: by an
	// error of the host's disk, say. It may be called once too often, by any goroutine, and does not block.
	Stopped func()

	// Commit saves the handle. The backend calls it once, when the process exists and before it can do
	// anything: so there is never a live VMM without a record. An error aborts the create.
	Commit func(Handle) error
}

// AdoptRequest is what a backend needs to take over a running VMM.
type AdoptRequest struct {
	Handle  Handle
	Spec    Spec
	Console io.Writer
	Ended   func() // as in CreateRequest
	Stopped func() // as in CreateRequest
}

// Machine is one VMM process and the guest in it, one incarnation. Its verbs are called by one goroutine at a
// time; Exited, Exit, State and Usage may be called by any.
type Machine interface {
	// Handle is what finds this machine again after metald restarts.
	Handle() Handle

	// Boot, Pause and Resume return nil only when the VMM itself has said that the guest now runs, is paused,
	// runs. A guest that ran and ended at once did boot.
	Boot(ctx context.Context) error
	Pause(ctx context.Context) error
	Resume(ctx context.Context) error

	// Shutdown asks the guest to power off and returns; the manager waits on Exited.
	// KindUnsupported where the machine has no way to ask.
	Shutdown(ctx context.Context) error

	// State is observed, not remembered: Created, Running, Paused, or Shutdown for a VMM whose guest ended.
	State(ctx context.Context) (lifecycle.State, error)

	// Usage is cumulative since this incarnation began. A reading that cannot be had is nil, never zero.
	//
	// After Exited was closed it is the last word, what the incarnation used in all, and it stays, after Destroy too.
	// What could not be read when nothing more could be used is nil in it, never an older value; memory is none then.
	// From the end of the process until Exited is closed Usage waits for it.
	//
	// CPUTime is that of everything that the VMM's process was: the start gate and a jailer become the VMM, under the
	// same pid and in the same cgroup, and count.
	Usage(ctx context.Context) (Usage, error)

	// Sources says where the kernel counts what the machine uses, for who reads it ten times a second.
	Sources() Sources

	// Exited is closed once the VMM process has ended and everything it said has been read.
	Exited() <-chan struct{}

	// Exit says how it ended. It is valid after Exited was closed.
	Exit() Exit

	// Destroy ends the process if it is alive and removes its run directory, sockets and other traces. It
	// waits for the end of the process, and is repeatable.
	Destroy(ctx context.Context) error

	// Release lets go of the machine without touching it: metald is about to stop, the VM goes on.
	Release()
}

// Handle is what survives a daemon restart. Private belongs to the backend; nobody else reads it.
type Handle struct {
	Version     int             `json:"version"`
	Backend     string          `json:"backend"`
	VM          VMID            `json:"vm"`
	Incarnation uint64          `json:"incarnation"`
	Process     ProcessIdentity `json:"process"`
	RunDir      string          `json:"runDir"`
	VMM         string          `json:"vmm,omitempty"`        // "QEMU"
	VMMVersion  string          `json:"vmmVersion,omitempty"` // "7.2.22"
	Private     json.RawMessage `json:"private,omitempty"`
}

// Decode reads the private part of a handle that a backend made into private. It refuses a handle of another backend,
// of another version than the one that this metald writes, and one that names no place.
func (h Handle) Decode(backend string, version int, private any) error {
	if h.Backend != backend || h.Version != version {
		return fmt.Errorf("a handle of backend %q, version %d, is not one of %s, version %d", h.Backend, h.Version, backend, version)
	}
	if !filepath.IsAbs(h.RunDir) {
		return fmt.Errorf("handle with the run directory %q", h.RunDir)
	}
	if err := json.Unmarshal(h.Private, private); err != nil {
		return fmt.Errorf("handle of VM %s: %w", h.VM, err)
	}
	return nil
}

// ProcessIdentity names one process for good: a reused pid does not match it.
type ProcessIdentity struct {
	PID        int    `json:"pid"`
	StartTicks uint64 `json:"startTicks"` // field 22 of /proc/<pid>/stat
	BootID     string `json:"bootId"`     // /proc/sys/kernel/random/boot_id
	ExeDevice  uint64 `json:"exeDevice"`  // device and inode of the VMM's executable
	ExeInode   uint64 `json:"exeInode"`
	ViaDevice  uint64 `json:"viaDevice,omitempty"` // of what becomes the VMM on its way there, a jailer; 0 for none
	ViaInode   uint64 `json:"viaInode,omitempty"`
}

// Exit says how a VMM ended.
type Exit struct {
	Reason string // one of the Reason constants
	Detail string // what the VMM said last, for people; may be empty
	Code   int    // exit code, -1 if it is not known or a signal ended the process
	Signal int    // the signal that ended it, 0 for none
}

// Reasons for the end of a VMM, as backend_info reports them.
const (
	ReasonGuestShutdown = "guest-shutdown" // the guest powered off
	ReasonGuestReset    = "guest-reset"    // the guest asked for a reboot, or panicked without saying so
	ReasonGuestPanic    = "guest-panic"    // the guest's console says that its kernel panicked
	ReasonForced        = "forced"         // metald ended the VMM because it was asked to
	ReasonKilled        = "vmm-killed"     // a signal that metald did not send
	ReasonCrashed       = "vmm-failed"     // the VMM ended with an error of its own
	ReasonHostReboot    = "host-reboot"    // the host restarted
	ReasonUnobserved    = "unobserved"     // it ended while no metald was watching
)

// Usage is what a machine used since its incarnation began. Every field is cumulative but MemoryBytes, which is
// a level. nil means unknown.
type Usage struct {
	At          time.Time
	CPUTime     *time.Duration // of the whole VMM process
	MemoryBytes *int64         // resident memory of the VMM process
	Disks       map[string]DiskUsage
	Networks    map[string]NetworkUsage
}

// Sources says what of a machine's usage is counted where it can be read without asking its VMM. The rest is in Usage.
type Sources struct {
	PID         int         // of the VMM, whose CPU clock and memory are the machine's
	Taps        []TapSource // whose counters are Usage's Networks; nil where the VMM counts them
	DisksAtHand bool        // Usage has the disks' counters at hand and asks nobody for them
}

// TapSource is a tap device, and where its counters stood when the incarnation began, as the guest sees them.
type TapSource struct {
	Name string
	From NetworkUsage
}

// DiskUsage is the I/O of one disk, by the guest's requests.
type DiskUsage struct{ ReadBytes, WriteBytes, ReadOps, WriteOps int64 }

// NetworkUsage is the traffic of one interface as the guest sees it.
type NetworkUsage struct{ ReceivedBytes, SentBytes, ReceivedPackets, SentPackets int64 }
