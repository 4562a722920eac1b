package qemu

import "github.com/unkeyed/unkey/go/deploy/metald/internal/backend/types"

// A microvm has 24 virtio slots; the entropy source and the balloon take two.
const (
	maxDisks    = 16
	maxNetworks = 6
	maxVCPUs    = 256 // what the API takes; the machine's own bound is 288, and 255 without KVM
	minMemory   = 32 << 20
)

// Capabilities says what QEMU's microvm machine can do with a spec.
func (b *Backend) Capabilities() types.Capabilities {
	return types.Capabilities{
		MaxVCPUs: maxVCPUs, MinMemoryBytes: minMemory, MaxDisks: maxDisks, MaxNetworks: maxNetworks,
		Fields: map[types.Field]types.Support{
			types.FieldMaxVCPUs:         {Note: "a microvm has no CPU hotplug; leave it out or equal to vcpu_count"},
			types.FieldTopology:         {OK: true, Note: "its product must be vcpu_count"},
			types.FieldFeatures:         {OK: true, Values: cpuFeatures, Note: "each is on or off"},
			types.FieldHotplug:          {Note: "a microvm has no memory hotplug"},
			types.FieldMaxMemory:        {Note: "a microvm has no memory hotplug; leave it out or equal to size_bytes"},
			types.FieldBacking:          {Note: "guest memory is anonymous memory of the VMM"},
			types.FieldInitrd:           {OK: true},
			types.FieldBootOptions:      {Note: "the machine is always microvm"},
			types.FieldDiskInterface:    {OK: true, Values: []string{"virtio-blk"}},
			types.FieldDiskOptions:      {Note: "disks are raw files with QEMU's defaults"},
			types.FieldNetwork:          {OK: true, Note: "on an existing tap device"},
			types.FieldNetworkInterface: {OK: true, Values: []string{"virtio-net"}},
			types.FieldNetworkOptions:   {Note: "interfaces have QEMU's defaults"},
			types.FieldConsoleInput:     {OK: true, Values: []string{"none"}, Note: "the console is read only"},
			types.FieldConsoleType:      {OK: true, Values: []string{"serial"}},
		},
	}
}
