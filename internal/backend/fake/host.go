// Package fake is a backend in memory, for tests: its machines obey the words of package guest, and can be made
// to fail, to stall and to die. It is strict where a real VMM would be forgiving: what a manager must never do is
// kept as a fault of the Host.
package fake

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/unkeyed/unkey/go/deploy/metald/internal/backend/types"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/host/boot"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/vm/lifecycle"
)

// Verbs that hooks can be set on. VerbCreated is the end of a Create: the process exists and its handle was
// committed.
const (
	VerbCreate   = "create"
	VerbCreated  = "created"
	VerbAdopt    = "adopt"
	VerbReap     = "reap"
	VerbBoot     = "boot"
	VerbPause    = "pause"
	VerbResume   = "resume"
	VerbShutdown = "shutdown"
	VerbState    = "state"
	VerbUsage    = "usage"
	VerbDestroy  = "destroy"
)

// Hook is called when a verb has begun and before it has any effect; its error is the verb's. It may block, and
// it may kill the VM's process by way of the Host.
type Hook func(ctx context.Context, vm types.VMID) error

// Host holds the processes of fake VMMs. It survives the Backends over it, as processes survive a daemon.
type Host struct {
	// MuteTimeout is how long a verb waits for a process that does not answer.
	MuteTimeout time.Duration

	mu        sync.Mutex
	bootID    string
	nextPID   int
	processes map[int]*process // alive
	hooks     map[string]Hook
	faults    []string
}

// NewHost returns a Host without processes.
func NewHost() *Host {
	bootID, err := boot.ID()
	if err != nil {
		bootID = "a host without /proc"
	}
	return &Host{
		MuteTimeout: 50 * time.Millisecond,
		bootID:      bootID,
		nextPID:     1 << 22, // larger than any real pid
		processes:   map[int]*process{},
		hooks:       map[string]Hook{},
	}
}

// On sets the hook of a verb; nil takes it away.
func (h *Host) On(verb string, hook Hook) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.hooks[verb] = hook
}

func (h *Host) hook(ctx context.Context, verb string, vm types.VMID) error {
	h.mu.Lock()
	hook := h.hooks[verb]
	h.mu.Unlock()
	if hook == nil {
		return nil
	}
	return hook(ctx, vm)
}

// Kill ends the process of a VM as kill -9 does, and tells whether there was one.
func (h *Host) Kill(vm types.VMID) bool {
	p := h.find(vm)
	if p == nil {
		return false
	}
	p.end(types.Exit{Reason: types.ReasonKilled, Code: -1, Signal: 9})
	return true
}

// Mute makes the process of a VM stop answering, or answer again. It can still be killed.
func (h *Host) Mute(vm types.VMID, mute bool) {
	if p := h.find(vm); p != nil {
		p.mu.Lock()
		p.mute = mute
		p.mu.Unlock()
	}
}

// StopGuest makes the VMM of a VM stop its guest, as for want of room on the host's disk.
func (h *Host) StopGuest(vm types.VMID) {
	p := h.find(vm)
	if p == nil || !p.move(lifecycle.Running, lifecycle.Paused) {
		return
	}
	p.mu.Lock()
	m := p.attached
	p.mu.Unlock()
	if m != nil && m.stopped != nil {
		m.stopped()
	}
}

// EndGuest makes the guest of a VM end by itself, with one of the reasons of package types.
func (h *Host) EndGuest(vm types.VMID, reason string) {
	if p := h.find(vm); p != nil {
		p.end(types.Exit{Reason: reason})
	}
}

// ReusePID ends the process of a VM and gives its pid to another process, which is not metald's. It returns the
// other's pid.
func (h *Host) ReusePID(vm types.VMID) int {
	p := h.find(vm)
	if p == nil {
		return 0
	}
	h.Kill(vm)
	stranger := &process{host: h, id: p.id, ended: make(chan struct{})}
	stranger.id.StartTicks++
	h.mu.Lock()
	defer h.mu.Unlock()
	h.processes[stranger.id.PID] = stranger
	return stranger.id.PID
}

// Reboot ends every process, and changes the boot id, as a reboot of the host does.
func (h *Host) Reboot() {
	for _, p := range h.all() {
		p.end(types.Exit{Reason: types.ReasonUnobserved, Code: -1})
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.bootID += "+"
}

// Alive names the VM of every live process, in no order; a process that is not metald's is "".
func (h *Host) Alive() []types.VMID {
	var vms []types.VMID
	for _, p := range h.all() {
		vms = append(vms, p.vm)
	}
	return vms
}

// Faults returns what the caller of the backend did that it must not do.
func (h *Host) Faults() []string {
	h.mu.Lock()
	defer h.mu.Unlock()
	return slices.Clone(h.faults)
}

func (h *Host) fault(format string, args ...any) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.faults = append(h.faults, fmt.Sprintf(format, args...))
}

func (h *Host) all() []*process {
	h.mu.Lock()
	defer h.mu.Unlock()
	all := make([]*process, 0, len(h.processes))
	for _, p := range h.processes {
		all = append(all, p)
	}
	return all
}

// find returns the live process of a VM, nil if it has none.
func (h *Host) find(vm types.VMID) *process {
	for _, p := range h.all() {
		if p.vm == vm && vm != "" {
			return p
		}
	}
	return nil
}

// match returns the live process that id names, nil if that one is no more.
func (h *Host) match(id types.ProcessIdentity) *process {
	h.mu.Lock()
	defer h.mu.Unlock()
	p := h.processes[id.PID]
	if p == nil || p.id != id {
		return nil
	}
	return p
}

// start adds a process that has no guest running yet.
func (h *Host) start(req types.CreateRequest) *process {
	p := newProcess(h, req)
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, other := range h.processes {
		if other.vm == req.ID {
			h.faults = append(h.faults, fmt.Sprintf("VM %s got a second VMM while its first was alive", req.ID))
		}
	}
	h.nextPID++
	p.id = types.ProcessIdentity{PID: h.nextPID, StartTicks: uint64(h.nextPID), BootID: h.bootID, ExeDevice: 1, ExeInode: 1}
	h.processes[p.id.PID] = p
	return p
}

func (h *Host) remove(p *process) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.processes[p.id.PID] == p {
		delete(h.processes, p.id.PID)
	}
}
