package cloudhypervisor

import (
	"fmt"
	"strings"
)

// maxVCPUs is what KVM says that a VM has at most.
const maxVCPUs = 8192

// validate is what is looked at before anything is opened. vm.create doesn't.
func (c *vmConfig) validate() *fault {
	for _, check := range []func() *fault{
		c.validatePayload, c.validateCPUs, c.validateMemory, c.validateDevices, c.validateIDs,
	} {
		if f := check(); f != nil {
			return f.under("Failed to validate config")
		}
	}
	return nil
}

func invalid(format string, args ...any) *fault {
	return says(fmt.Sprintf(format, args...)).as(badConfig)
}

func (c *vmConfig) validatePayload() *fault {
	why := ""
	switch p := c.Payload; {
	case p == nil:
		why = "No bootitem provided: neither firmware nor kernel"
	case p.Firmware != nil && p.Kernel != nil:
		why = "Specifying a kernel is not supported when a firmware is provided"
	case p.Firmware == nil && p.Kernel == nil:
		why = "No bootitem provided: neither firmware nor kernel"
	default:
		return nil
	}
	return invalid("%s", why).under("Payload configuration is not bootable")
}

func (c *vmConfig) validateCPUs() *fault {
	switch t := c.CPUs.Topology; {
	case c.CPUs.Max < c.CPUs.Boot:
		return invalid("Max CPUs (%d) lower than boot CPUs (%d)", c.CPUs.Max, c.CPUs.Boot)
	case c.CPUs.Max > maxVCPUs:
		return invalid("Too many CPUs: specified %d but %d is the limit", c.CPUs.Max, maxVCPUs)
	case t == nil || t.hasZero():
		return nil
	case t.ThreadsPerCore > 2:
		return invalid("CPU topology supports at most 2 threads per core")
	case t.product() != uint64(c.CPUs.Max):
		return invalid("Product of CPU topology parts does not match maximum vCPU")
	}
	return nil
}

// hasZero is what this version divides by.
func (t *cpuTopology) hasZero() bool {
	return t.ThreadsPerCore == 0 || t.CoresPerDie == 0 || t.DiesPerPackage == 0 || t.Packages == 0
}

func (t *cpuTopology) product() uint64 {
	return uint64(t.ThreadsPerCore) * uint64(t.CoresPerDie) * uint64(t.DiesPerPackage) * uint64(t.Packages)
}

func (c *vmConfig) validateMemory() *fault {
	switch m := c.Memory; {
	case m.HugePageSize != nil && !m.HugePages:
		return invalid("Huge page size specified but huge pages not enabled")
	case m.HugePageSize != nil && (*m.HugePageSize == 0 || *m.HugePageSize&(*m.HugePageSize-1) != 0):
		return invalid("Huge page size is not power of 2: %d", *m.HugePageSize)
	case m.Mergeable && m.Shared:
		return invalid("Invalid to set both 'mergeable' and 'shared' for memory")
	}
	return nil
}

func (c *vmConfig) validateDevices() *fault {
	if c.Console.Mode == modeTty && c.Serial.Mode == modeTty {
		return invalid("Cannot have same TTY for both console and serial")
	}
	for _, d := range c.Disks {
		if d.VhostUser {
			return invalid("the stand-in has no vhost-user")
		}
	}
	for _, n := range c.Net {
		if n.VhostUser {
			return invalid("the stand-in has no vhost-user")
		}
		if n.MTU != nil && *n.MTU < 1280 {
			return invalid("Invalid MTU: %d", *n.MTU)
		}
	}
	if b := c.Balloon; b != nil && b.Size > c.Memory.Size {
		return invalid("Balloon size (%d) greater than RAM (%d)", b.Size, c.Memory.Size)
	}
	return nil
}

func (c *vmConfig) validateIDs() *fault {
	seen := map[string]bool{}
	for _, id := range c.ids() {
		switch {
		case id == nil:
			continue
		case strings.HasPrefix(*id, "__"):
			return invalid("Identifier %s is not invalid", *id)
		case seen[*id]:
			return invalid("Identifier %s is not unique", *id).as(duplicate)
		}
		seen[*id] = true
	}
	return nil
}

func (c *vmConfig) ids() []*string {
	var all []*string
	for _, d := range c.Disks {
		all = append(all, d.ID)
	}
	for _, n := range c.Net {
		all = append(all, n.ID)
	}
	if c.Balloon != nil {
		all = append(all, c.Balloon.ID)
	}
	return append(all, c.RNG.ID)
}
