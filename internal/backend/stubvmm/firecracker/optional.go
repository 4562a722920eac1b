package firecracker

import (
	"slices"
)

// The rest of the API, as far as what it refuses.

func (v *vmm) setCPUConfig(c any) error {
	if err := v.preBoot(); err != nil {
		return err
	}
	v.cpu = c
	return nil
}

func (v *vmm) setMemoryHotplug(c memoryHotplugConfig) error {
	if err := v.preBoot(); err != nil {
		return err
	}
	v.bootPath = true
	if c.BlockSizeMiB == 0 {
		c.BlockSizeMiB = 2
	}
	if c.SlotSizeMiB == 0 {
		c.SlotSizeMiB = 128
	}
	const refused = "Memory hotplug config error: "
	switch {
	case c.BlockSizeMiB < 2:
		return faultf("%sBlock size must not be lower than 2 MiB", refused)
	case c.BlockSizeMiB&(c.BlockSizeMiB-1) != 0:
		return faultf("%sBlock size must be a power of 2", refused)
	case c.SlotSizeMiB < 128:
		return faultf("%sSlot size must not be lower than 128 MiB", refused)
	case c.SlotSizeMiB%c.BlockSizeMiB != 0:
		return faultf("%sSlot size must be a multiple of block size (%d MiB)", refused, c.BlockSizeMiB)
	case c.TotalSizeMiB < c.SlotSizeMiB:
		return faultf("%sTotal size must not be lower than slot size (%d MiB)", refused, c.SlotSizeMiB)
	case c.TotalSizeMiB%c.SlotSizeMiB != 0:
		return faultf("%sTotal size must be a multiple of slot size (%d MiB)", refused, c.SlotSizeMiB)
	}
	v.hotplug = &c
	return nil
}

func (v *vmm) haveHotplug(what string) error {
	if err := v.postBoot(); err != nil {
		return err
	}
	if v.hotplug == nil {
		return faultf("%s: Failed perform action on device: Device not found", what)
	}
	return nil
}

// getMemoryHotplug: the guest never plugs what it is given.
func (v *vmm) getMemoryHotplug() (any, error) {
	if err := v.haveHotplug("Internal VMM error"); err != nil {
		return nil, err
	}
	return struct {
		Block     uint64 `json:"block_size_mib"`
		Total     uint64 `json:"total_size_mib"`
		Slot      uint64 `json:"slot_size_mib"`
		Plugged   uint64 `json:"plugged_size_mib"`
		Requested uint64 `json:"requested_size_mib"`
	}{uint64(v.hotplug.BlockSizeMiB), uint64(v.hotplug.TotalSizeMiB), uint64(v.hotplug.SlotSizeMiB), 0, v.wanted}, nil
}

func (v *vmm) patchMemoryHotplug(c memoryHotplugSizeUpdate) error {
	if err := v.haveHotplug("Memory hotplug update error"); err != nil {
		return err
	}
	if c.RequestedSizeMiB > v.hotplug.TotalSizeMiB {
		return faultf("Memory hotplug update error: Failed to create memory hotplug device: the size is greater than the total")
	}
	v.wanted = uint64(c.RequestedSizeMiB)
	return nil
}

func (v *vmm) pmemIndex(id string) int {
	return slices.IndexFunc(v.pmem, func(p pmemConfig) bool { return p.ID == id })
}

func (v *vmm) putPmem(c pmemConfig) error {
	at := v.pmemIndex(c.ID)
	if v.state != notStarted {
		if err := v.pluggable(at >= 0); err != nil {
			return err
		}
	}
	v.bootPath = true
	other := slices.ContainsFunc(v.pmem, func(p pmemConfig) bool { return p.RootDevice && p.ID != c.ID })
	switch {
	case c.RootDevice && len(v.drives) > 0 && v.drives[0].IsRootDevice:
		return faultf("Pmem config error: Attempt to add pmem as a root device while the root device defined as a block device")
	case c.RootDevice && other:
		return faultf("Pmem config error: A root pmem device already exist")
	case at >= 0:
		v.pmem[at] = c
	default:
		v.pmem = append(v.pmem, c)
	}
	v.metrics.device("pmem", c.ID)
	return nil
}

func (v *vmm) patchPmem(c pmemDeviceUpdateConfig) error {
	if err := v.postBoot(); err != nil {
		return err
	}
	if c.RateLimiter != nil && v.pmemIndex(c.ID) < 0 {
		return faultf("Pmem config error: Unable to patch the pmem device: Failed perform action on device: Device not found Please verify the request arguments.")
	}
	return nil
}

// unplug takes a device out of a machine that runs.
func (v *vmm) unplug(kind, id string) (call, error) {
	if err := checkID(id); err != nil {
		return call{}, err
	}
	return call{do: func() (any, error) { return nil, v.remove(kind, id) }}, nil
}

func (v *vmm) remove(kind, id string) error {
	if err := v.postBoot(); err != nil {
		return err
	}
	v.log.log(levelWarn, mainThread, "[DevPreview] PCI device hot-unplug is in development preview.")
	at := map[string]int{"block": v.driveIndex(id), "net": v.networkIndex(id), "pmem": v.pmemIndex(id)}[kind]
	root := at >= 0 && (kind == "block" && v.drives[at].IsRootDevice || kind == "pmem" && v.pmem[at].RootDevice)
	switch {
	case !v.pci:
		return faultf("PCI is not enabled")
	case at < 0:
		return faultf("Device not found")
	case root:
		return faultf("Cannot unplug root device")
	case kind == "block":
		closeFD(v.drives[at].fd)
		v.drives = slices.Delete(v.drives, at, at+1)
	case kind == "net":
		closeFD(v.networks[at].fd)
		v.networks = slices.Delete(v.networks, at, at+1)
	default:
		v.pmem = slices.Delete(v.pmem, at, at+1)
	}
	return nil
}
