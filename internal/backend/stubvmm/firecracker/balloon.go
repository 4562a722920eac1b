package firecracker

func (v *vmm) setBalloon(c balloonDeviceConfig) error {
	if err := v.preBoot(); err != nil {
		return err
	}
	v.bootPath = true
	if uint64(c.AmountMiB) > uint64(v.machine.MemSizeMiB) {
		return faultf("Balloon config error: Amount of pages requested is too large.")
	}
	v.balloon = &c
	return nil
}

func (v *vmm) getBalloon() (any, error) {
	switch {
	case v.balloon != nil:
		return v.balloon, nil
	case v.state == notStarted:
		return nil, faultf("Balloon config error: No balloon device found.")
	}
	return nil, faultf("Internal VMM error: Failed perform action on device: Device not found")
}

// haveBalloon says why a call that needs a balloon in a machine that runs cannot be obeyed.
func (v *vmm) haveBalloon(what string) error {
	if err := v.postBoot(); err != nil {
		return err
	}
	if v.balloon == nil {
		return faultf("%s: Failed perform action on device: Device not found", what)
	}
	return nil
}

func (v *vmm) patchBalloon(c balloonUpdateConfig) error {
	if err := v.haveBalloon("Balloon update error"); err != nil {
		return err
	}
	if uint64(c.AmountMiB) > uint64(v.machine.MemSizeMiB) {
		return faultf("Balloon update error: Balloon: Requested memory should be less than %dMiB", v.machine.MemSizeMiB)
	}
	v.balloon.AmountMiB = c.AmountMiB
	return nil
}

func (v *vmm) patchBalloonStats(c balloonUpdateStatsConfig) error {
	if err := v.haveBalloon("Balloon update error"); err != nil {
		return err
	}
	if (c.StatsPollingIntervalS == 0) != (v.balloon.StatsPollingIntervalS == 0) {
		return faultf("Balloon update error: Balloon: Statistics cannot be enabled/disabled after activation.")
	}
	v.balloon.StatsPollingIntervalS = c.StatsPollingIntervalS
	return nil
}

// balloonStats has what the host knows; the guest never reports anything.
func (v *vmm) balloonStats() (any, error) {
	if err := v.haveBalloon("Internal VMM error"); err != nil {
		return nil, err
	}
	if v.balloon.StatsPollingIntervalS == 0 {
		return nil, faultf("Internal VMM error: Balloon: Received stats query when stats are disabled.")
	}
	return struct {
		TargetPages uint32 `json:"target_pages"`
		ActualPages uint32 `json:"actual_pages"`
		TargetMiB   uint32 `json:"target_mib"`
		ActualMiB   uint32 `json:"actual_mib"`
	}{v.balloon.AmountMiB * 256, 0, v.balloon.AmountMiB, 0}, nil
}

func (v *vmm) hinting() (any, error) {
	if err := v.haveBalloon("Balloon update error"); err != nil {
		return nil, err
	}
	return nil, faultf("Balloon update error: Balloon: Attempting to use hinting when not enabled")
}
