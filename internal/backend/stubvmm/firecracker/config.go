package firecracker

// fullConfig is GET /vm/config. Where log and metrics go is never told, and what a snapshot has not is empty.
func (v *vmm) fullConfig() (any, error) {
	c := struct {
		Balloon       *balloonDeviceConfig     `json:"balloon"`
		Drives        []blockDeviceConfig      `json:"drives"`
		BootSource    bootSourceConfig         `json:"boot-source"`
		CPUConfig     any                      `json:"cpu-config"`
		Logger        *loggerConfig            `json:"logger"`
		MachineConfig machineConfig            `json:"machine-config"`
		Metrics       *metricsConfig           `json:"metrics"`
		MMDSConfig    *mmdsConfig              `json:"mmds-config"`
		Networks      []networkInterfaceConfig `json:"network-interfaces"`
		Vsock         *vsockDeviceConfig       `json:"vsock"`
		Entropy       *entropyDeviceConfig     `json:"entropy"`
		Pmem          []pmemConfig             `json:"pmem"`
		MemoryHotplug *memoryHotplugConfig     `json:"memory-hotplug"`
	}{
		Balloon: v.balloon, Drives: []blockDeviceConfig{}, CPUConfig: v.cpu, MachineConfig: v.machine,
		MMDSConfig: v.mmds, Networks: []networkInterfaceConfig{}, Vsock: v.vsock, Entropy: v.entropy,
		Pmem: append([]pmemConfig{}, v.pmem...), MemoryHotplug: v.hotplug,
	}
	if v.boot != nil {
		c.BootSource = *v.boot
	}
	for _, d := range v.drives {
		told := d.blockDeviceConfig
		readOnly, engine := d.readOnly(), fileEngineType("Sync")
		told.IsReadOnly = &readOnly
		if told.IOEngine == nil {
			told.IOEngine = &engine
		}
		c.Drives = append(c.Drives, told)
	}
	for _, n := range v.networks {
		c.Networks = append(c.Networks, n.networkInterfaceConfig)
	}
	return c, nil
}
