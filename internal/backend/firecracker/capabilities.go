package firecracker

import "github.com/unkeyed/unkey/go/deploy/metald/internal/backend/types"

// Name selects this backend in UNKEY_METALD_BACKEND.
const Name = "firecracker"

// Without PCI Firecracker has room for 17 virtio devices on x86, and the entropy source takes one.
const (
	maxDisks    = 10
	maxNetworks = 6
	maxVCPUs    = 32
	minMemory   = 32 << 20 // what a kernel needs; Firecracker itself takes 1 MiB
)

// capabilities says what Firecracker can do with a spec.
func capabilities() types.Capabilities {
	return types.Capabilities{
		MaxVCPUs: maxVCPUs, MinMemoryBytes: minMemory, MaxDisks: maxDisks, MaxNetworks: maxNetworks,
		Fields: map[types.Field]types.Support{
			types.FieldMaxVCPUs:         {Note: "Firecracker has no CPU hotplug; leave it out or equal to vcpu_count"},
			types.FieldTopology:         {Note: "each vCPU is a core of one socket"},
			types.FieldFeatures:         {Note: "the guest has the CPU that Firecracker makes of the host's"},
			types.FieldHotplug:          {Note: "the guest's memory is fixed at its start"},
			types.FieldMaxMemory:        {Note: "the guest's memory is fixed at its start; leave it out or equal to size_bytes"},
			types.FieldBacking:          {Note: "guest memory is anonymous memory of the VMM"},
			types.FieldInitrd:           {OK: true},
			types.FieldBootOptions:      {Note: "Firecracker has one machine and no firmware"},
			types.FieldDiskInterface:    {OK: true, Values: []string{"virtio-blk"}},
			types.FieldDiskOptions:      {Note: "disks are raw files, and what the guest flushes is on the host's disk"},
			types.FieldNetwork:          {OK: true, Note: "on an existing tap device; jailed VMMs need UNKEY_METALD_JAILER_NETNS=false"},
			types.FieldNetworkInterface: {OK: true, Values: []string{"virtio-net"}},
			types.FieldNetworkOptions:   {Note: "interfaces have Firecracker's defaults"},
			types.FieldConsoleInput:     {OK: true, Values: []string{"none"}, Note: "the console is read only"},
			types.FieldConsoleType:      {OK: true, Values: []string{"serial"}},
		},
	}
}
