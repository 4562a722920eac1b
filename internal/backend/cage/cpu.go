package cage

import (
	"time"

	"github.com/unkeyed/unkey/go/deploy/metald/internal/vmmprocess"
)

// CPU is what the cgroup of a VM in the one called parent has counted: all that was ever in it, as long as it is there.
// Known is false where it is not, or does not tell.
func (c *Cage) CPU(parent, name string) (used time.Duration, known bool) {
	above, err := c.above(parent)
	if err != nil {
		return 0, false
	}
	group, err := above.Group(name)
	if err != nil {
		return 0, false
	}
	u, err := group.Usage()
	if u.CPU == nil {
		return 0, false
	}
	_ = err // of what else is counted there
	return *u.CPU, true
}

// Lead is how far the CPU clock of a VMM that lives is ahead of its cgroup, which does not count what the start gate used
// before it had joined it (version 1), or counts in microseconds (version 2). It stays the same. Where the VMM runs
// meanwhile it is found to be less, by some microseconds; one that was just made waits for its guest.
func (c *Cage) Lead(pid int, parent, name string) time.Duration {
	var lead time.Duration
	closest := time.Hour
	for range 5 {
		before, err1 := vmmprocess.CPUTime(pid)
		counted, known := c.CPU(parent, name)
		after, err2 := vmmprocess.CPUTime(pid)
		if err1 != nil || err2 != nil || !known {
			return 0
		}
		if ran := after - before; ran < closest {
			closest, lead = ran, max(0, before-counted)
		}
		if closest == 0 {
			break
		}
	}
	return lead
}

// FinalCPU is what a VMM that has ended used in all: the larger of what its CPU clock said, which is nil where that could
// not be read, and what its cgroup in the one called parent counted, plus the lead of the clock where it is known. The cgroup
// also has what the kernel did for the VMM after its clock had been read. Nil is neither.
func (c *Cage) FinalCPU(clock *time.Duration, parent, name string, lead time.Duration) *time.Duration {
	counted, known := c.CPU(parent, name)
	if known {
		counted += lead
	}
	if !known || clock != nil && *clock >= counted {
		return clock
	}
	return &counted
}
