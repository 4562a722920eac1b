package firecracker

// maxVCPUs is what a VM has at most.
const maxVCPUs = 32

// update is a whole configuration as a change.
func (c machineConfig) update() machineConfigUpdate {
	return machineConfigUpdate{
		VCPUCount: &c.VCPUCount, MemSizeMiB: &c.MemSizeMiB, SMT: &c.SMT, CPUTemplate: c.CPUTemplate,
		TrackDirtyPages: &c.TrackDirtyPages, HugePages: &c.HugePages,
	}
}

func (v *vmm) machineCall(method string, u machineConfigUpdate, err error) (call, error) {
	if err != nil {
		return call{}, err
	}
	c := call{do: func() (any, error) { return nil, v.updateMachine(u) }}
	if u.CPUTemplate != nil {
		v.metrics.inc("deprecated_api.deprecated_http_api_calls")
		c.deprecated = method + " /machine-config: cpu_template field is deprecated."
	}
	return c, nil
}

func (v *vmm) updateMachine(u machineConfigUpdate) error {
	if err := v.preBoot(); err != nil {
		return err
	}
	v.bootPath = true
	c := v.machine
	set(&c.VCPUCount, u.VCPUCount)
	set(&c.MemSizeMiB, u.MemSizeMiB)
	set(&c.SMT, u.SMT)
	set(&c.TrackDirtyPages, u.TrackDirtyPages)
	set(&c.HugePages, u.HugePages)
	if c.HugePages == "" {
		c.HugePages = "None"
	}
	if u.CPUTemplate != nil {
		c.CPUTemplate = u.CPUTemplate
		if *u.CPUTemplate == "None" {
			c.CPUTemplate = nil
		}
	}
	switch {
	case c.VCPUCount == 0, c.VCPUCount > maxVCPUs, c.SMT && c.VCPUCount > 1 && c.VCPUCount%2 == 1:
		return faultf("Machine config error: The number of vCPUs must be greater than 0, less than %d and must be 1 or an even number if SMT is enabled.", maxVCPUs)
	case c.MemSizeMiB == 0, c.HugePages == "2M" && c.MemSizeMiB%2 != 0:
		return faultf("Machine config error: The memory size (MiB) is either 0, or not a multiple of the configured page size.")
	case v.balloon != nil && uint64(c.MemSizeMiB) < uint64(v.balloon.AmountMiB):
		return faultf("Machine config error: The memory size (MiB) is smaller than the previously set balloon device target size.")
	}
	v.machine = c
	return nil
}

func set[T any](to *T, from *T) {
	if from != nil {
		*to = *from
	}
}
