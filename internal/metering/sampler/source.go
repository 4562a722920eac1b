package sampler

import (
	"errors"
	"log/slog"
	"sync"

	"github.com/unkeyed/unkey/go/deploy/metald/internal/backend/types"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/host/proc"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/metering/usage"
)

// source is where a life's counters are read. It knows what was read last, and goes by the VMM's CPU clock: while that
// stands still no thread of the VMM has run, so memory and disks are what they were.
type source struct {
	machine types.Machine
	process types.ProcessIdentity
	pid     int // 0 where the kernel counts for no process
	spec    types.Spec
	atHand  bool // Usage has the disks' counters at hand
	asked   bool // Usage is asked for something
	counter counter
	taps    []*tapState // of Run alone; nil where the VMM counts
	phase   uint64      // of the ticks at which everything is read

	mu       sync.Mutex // held while it is read, which waits for nothing
	closed   bool
	proc     *proc.Meter // nil where it could not be opened
	gone     bool        // the process has ended
	cpu      uint64
	cpuKnown bool
	resident uint64 // where resKnown, at cpu
	resKnown bool
	disks    types.DiskUsage // where disksOK, at disksCPU
	disksCPU uint64
	disksOK  bool
	ask      ask
}

// counter is a machine that has the sums of its disks' counters at hand. It asks nobody, takes no time and allocates
// nothing. ok is false where one is not known.
type counter interface {
	DiskTotals() (sum types.DiskUsage, ok bool)
}

// openSource opens what can be read of m. What cannot be is UNKNOWN, and is tried again.
func openSource(m types.Machine, spec types.Spec, epoch uint64, log *slog.Logger) *source {
	from, h := m.Sources(), m.Handle()
	c := &source{machine: m, process: h.Process, pid: from.PID, spec: spec, atHand: from.DisksAtHand, phase: epoch}
	c.counter, _ = m.(counter)
	c.taps = openTaps(from.Taps, spec)
	byVMM := c.taps == nil && len(spec.Networks) > 0
	c.asked = c.pid == 0 || byVMM || len(spec.Disks) > 0 && c.counter == nil
	if err := c.open(); err != nil && !errors.Is(err, proc.ErrGone) {
		log.Error("the counters of a VMM cannot be read; it is tried again", "vm", h.VM, "pid", c.pid, "error", err)
	}
	return c
}

// openProcess opens what can be read of a VMM of which there is no machine yet.
func openProcess(h types.Handle, spec types.Spec, epoch uint64) *source {
	c := &source{process: h.Process, pid: h.Process.PID, spec: spec, phase: epoch}
	_ = c.open() // told by openSource
	return c
}

// open opens the process's counters, if it is that process.
func (c *source) open() error {
	if c.pid == 0 {
		return nil
	}
	p, err := proc.Open(c.pid)
	if err == nil {
		var ticks uint64
		if ticks, err = proc.StartTicks(c.pid); err == nil && ticks != c.process.StartTicks {
			err = proc.ErrGone // files that were opened before its end do not answer any more
		}
	}
	switch {
	case err == nil:
		c.proc = p
		return nil
	case p != nil:
		p.Close()
	}
	c.gone = errors.Is(err, proc.ErrGone)
	return err
}

// closeAll closes sources; some may be nil.
func closeAll(all []*source) {
	for _, c := range all {
		if c != nil {
			c.close()
		}
	}
}

func (c *source) close() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.closed = true
	if c.proc != nil {
		c.proc.Close()
		c.proc = nil
	}
}

// read reads everything but taps. full is for things that change though no thread of the VMM ran: the host may take
// memory away. want says that the machine should be asked.
func (c *source) read(now int64, full bool) (r usage.Reading, want bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return r, false
	}
	moved := c.readProcess(&r, full)
	if len(c.spec.Disks) == 0 {
		putDisks(&r, types.DiskUsage{})
	} else if c.counter != nil && !c.gone {
		c.readDisks(&r, moved || full)
	}
	if len(c.spec.Networks) == 0 {
		putNet(&r, types.NetworkUsage{})
	}
	if c.asked && !c.gone { // the end brings the last word
		want = c.readAnswer(&r, now, full)
	}
	return r, want
}

// readProcess reads the clock and, if need be, the memory. It says whether a thread of the VMM ran since the last tick.
func (c *source) readProcess(r *usage.Reading, full bool) (moved bool) {
	if c.proc == nil && full && !c.gone {
		_ = c.open() // told by openSource
	}
	if c.gone {
		r.Put(usage.Resident, 0)
		return false
	}
	if c.proc == nil {
		return true
	}
	cpu, err := c.proc.CPU()
	moved = err != nil || !c.cpuKnown || uint64(cpu) != c.cpu
	if moved || full || !c.resKnown {
		// The clock is that of whoever has the pid. Memory that can still be read after it says that this is the VMM.
		n, memErr := c.proc.Resident()
		c.resident, c.resKnown = n, memErr == nil
		if errors.Is(memErr, proc.ErrGone) || errors.Is(err, proc.ErrGone) {
			c.gone = true
			r.Put(usage.Resident, 0)
			return false
		}
		if memErr != nil {
			return true
		}
	}
	if err == nil {
		c.cpu, c.cpuKnown = uint64(cpu), true
		r.Put(usage.CPU, c.cpu)
	}
	if c.resKnown {
		r.Put(usage.Resident, c.resident)
	}
	return moved
}

// readDisks reads counters that are at hand.
func (c *source) readDisks(r *usage.Reading, due bool) {
	if due || !c.disksOK {
		c.disks, c.disksOK = c.counter.DiskTotals()
	}
	if c.disksOK {
		putDisks(r, c.disks)
	}
}
