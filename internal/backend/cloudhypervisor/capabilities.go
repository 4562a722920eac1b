package cloudhypervisor

import "github.com/unkeyed/unkey/go/deploy/metald/internal/backend/types"

// Name selects this backend in UNKEY_METALD_BACKEND.
const Name = "cloudhypervisor"

// A PCI segment has 32 places. The host bridge takes one, the entropy source and pvpanic take two.
const (
	maxDisks    = 16
	maxNetworks = 6
	maxVCPUs    = 256 // what the API takes; from version 48 on the VMM's own bound is 8192
	minMemory   = 32 << 20
)

// capabilities says what Cloud Hypervisor can do with a spec.
func capabilities() types.Capabilities {
	return types.Capabilities{
		MaxVCPUs: maxVCPUs, MinMemoryBytes: minMemory, MaxDisks: maxDisks, MaxNetworks: maxNetworks,
		Fields: map[types.Field]types.Support{
			types.FieldMaxVCPUs:         {OK: true, Note: "room for vCPUs to be plugged"},
			types.FieldTopology:         {OK: true, Note: "its product must be max_vcpu_count, or vcpu_count where that is 0; a core has 1 or 2 threads"},
			types.FieldFeatures:         {OK: true, Values: []string{"amx"}, Note: "amx is on or off; the guest has the other features of the host's CPU"},
			types.FieldHotplug:          {OK: true, Note: "with a max_size_bytes above size_bytes"},
			types.FieldMaxMemory:        {OK: true, Note: "with hotplug_enabled, above size_bytes by a multiple of 128 MiB"},
			types.FieldBacking:          {OK: true, Values: backingKeys(), Note: backingNote},
			types.FieldInitrd:           {OK: true},
			types.FieldBootOptions:      {Note: "Cloud Hypervisor has one machine, and the kernel is booted without firmware"},
			types.FieldDiskInterface:    {OK: true, Values: []string{"virtio-blk"}},
			types.FieldDiskOptions:      {OK: true, Values: []string{"direct"}, Note: "direct is on or off: on leaves the host's page cache out"},
			types.FieldNetwork:          {OK: true, Note: "on an existing tap device; guests have its MTU with UNKEY_METALD_JAILER_NETNS=false, and 1500 otherwise"},
			types.FieldNetworkInterface: {OK: true, Values: []string{"virtio-net"}},
			types.FieldNetworkOptions:   {OK: true, Values: []string{"offload"}, Note: "offload is on or off: off leaves checksums and segments to the guest"},
			types.FieldConsoleInput:     {OK: true, Values: []string{"none"}, Note: "the console is read only"},
			types.FieldConsoleType:      {OK: true, Values: []string{"serial"}},
		},
	}
}
