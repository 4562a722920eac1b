package sampler

import (
	"fmt"
	"slices"
	"time"

	"github.com/unkeyed/unkey/go/deploy/metald/internal/backend/types"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/metering/usage"
)

// life is a life that has not ended. It is guarded by Sampler.mu.
type life struct {
	life    usage.Life
	next    uint64      // the tick that comes next, if none was missed
	state   usage.State // that the next tick has
	begun   uint64      // number of the record of its beginning; 0 if an earlier metald wrote it
	waiting bool        // an earlier metald began it, and it was not adopted yet
	ended   bool
	spec    types.Spec // not of one that waits
	source  *source    // nil until it is attached
	known   bool       // memory is
	memory  uint64     // bytes that it was promised
	told    [kinds]bool
}

func (l *life) epoch() uint64 { return l.life.Incarnation.Epoch }

func (l *life) vm() types.VMID { return types.VMID(l.life.Incarnation.VM) }

// is says whether the life is that of the VMM's process.
func (l *life) is(h types.Handle) bool {
	i := l.life.Incarnation
	return i.VM == string(h.VM) && i.Boot == h.Process.BootID && i.StartTicks == h.Process.StartTicks
}

// coming is the tick that comes next, after missed ones: those that the life had lived to see.
func (l *life) coming(missed uint64) uint64 {
	if l.next > 0 {
		return l.next + missed
	}
	return 0
}

// allocated puts the memory that the VM was promised, where somebody said how much that is.
func (l *life) allocated(r *usage.Reading) {
	if l.known {
		r.Put(usage.Allocated, l.memory)
	}
}

// has notes what the VM has.
func (l *life) has(spec types.Spec) {
	l.spec, l.known, l.memory = spec, true, uint64(max(spec.Memory.SizeBytes, 0))
}

// find returns the life of a VMM's process, or nil. The caller holds mu.
func (s *Sampler) find(h types.Handle) *life {
	for _, group := range [][]*life{s.lives, s.foreign} {
		for _, l := range group {
			if l.is(h) {
				return l
			}
		}
	}
	return nil
}

// add notes a life that begins. The caller holds mu.
func (s *Sampler) add(l *life) {
	s.lives = append(s.lives, l)
	s.byVM[l.vm()] = l
}

// remove forgets a life, and returns what is to be closed once mu is free. The caller holds mu.
func (s *Sampler) remove(l *life) *source {
	same := func(o *life) bool { return o == l }
	s.lives = slices.DeleteFunc(s.lives, same)
	s.foreign = slices.DeleteFunc(s.foreign, same)
	if s.byVM[l.vm()] == l {
		delete(s.byVM, l.vm())
	}
	l.ended, s.changed = true, true
	return l.source
}

// open makes the life of a VMM. The caller holds mu.
func (s *Sampler) open(h types.Handle, spec types.Spec, tenant string, state usage.State, baseline usage.Reading) *life {
	s.epoch++
	l := &life{state: state, life: usage.Life{
		Incarnation: usage.Incarnation{
			Host: s.cfg.Host, VM: string(h.VM), Epoch: s.epoch, Boot: h.Process.BootID, StartTicks: h.Process.StartTicks,
		},
		Customer: tenant, Start: s.now(), State: state, Baseline: baseline, Limits: limits(spec, s.cfg.Interval),
	}}
	l.has(spec)
	l.allocated(&l.life.Baseline)
	return l
}

// fromZero is the baseline of counters that begin with their VMM.
func fromZero() (r usage.Reading) {
	for f := range usage.Field(usage.Counters) {
		r.Put(f, 0)
	}
	return r
}

// What bounds readings is generous: it is to find values that are none, and never to cut off what was used.
const (
	vmmThreads     = 2       // beside its vCPUs a VMM keeps busy: its own loop, and what serves it
	memoryHeadroom = 2 << 30 // bytes; QEMU may keep 1 GiB of translated code
	fastest        = 100_000_000_000
)

// limits are what no honest reading of a VM exceeds. Every disk and interface may have a thread of its own.
func limits(spec types.Spec, tick time.Duration) usage.Limits {
	cpus := max(spec.CPU.Count, spec.CPU.Max) + vmmThreads + len(spec.Disks) + len(spec.Networks)
	return usage.Limits{
		CPUMilli:           uint64(cpus) * 1000,
		MemoryBytes:        uint64(max(spec.Memory.SizeBytes, spec.Memory.MaxSizeBytes)) + memoryHeadroom,
		DiskBytesPerSecond: fastest, NetBytesPerSecond: fastest,
		TickNs: uint64(tick),
	}
}

// unknownVM says that a VM has no life that goes on.
func unknownVM(id types.VMID) error {
	return fmt.Errorf("VM %s is not metered: nothing of it began", id)
}
