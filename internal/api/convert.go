package api

import (
	"fmt"
	"time"

	pb "github.com/unkeyed/unkey/go/deploy/metald/gen/vmprovisioner/v1"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/backend/types"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/vm/lifecycle"
)

// specFromProto translates a config that has passed the rules of the proto file, and fills in what the client may
// leave out: the ids of disks and interfaces, the root device where there is one disk, the console.
// The same config always gives the same Spec, so that a create can be repeated.
func specFromProto(c *pb.VmConfig) types.Spec {
	return types.Spec{
		CPU:      cpuFromProto(c.GetCpu()),
		Memory:   memoryFromProto(c.GetMemory()),
		Boot:     bootFromProto(c.GetBoot()),
		Disks:    disksFromProto(c.GetStorage()),
		Networks: networksFromProto(c.GetNetwork()),
		Console:  consoleFromProto(c.GetConsole()),
		Metadata: orNil(c.GetMetadata()),
	}
}

func cpuFromProto(c *pb.CpuConfig) types.CPU {
	cpu := types.CPU{Count: int(c.GetVcpuCount()), Max: int(c.GetMaxVcpuCount()), Features: orNil(c.GetFeatures())}
	if t := c.GetTopology(); t != nil {
		cpu.Topology = &types.Topology{
			Sockets:        int(t.GetSockets()),
			CoresPerSocket: int(t.GetCoresPerSocket()),
			ThreadsPerCore: int(t.GetThreadsPerCore()),
		}
	}
	return cpu
}

func memoryFromProto(m *pb.MemoryConfig) types.Memory {
	return types.Memory{
		SizeBytes:    m.GetSizeBytes(),
		Hotplug:      m.GetHotplugEnabled(),
		MaxSizeBytes: m.GetMaxSizeBytes(),
		Backing:      orNil(m.GetBacking()),
	}
}

func bootFromProto(b *pb.BootConfig) types.Boot {
	return types.Boot{
		KernelPath: b.GetKernelPath(),
		InitrdPath: b.GetInitrdPath(),
		KernelArgs: b.GetKernelArgs(),
		Options:    orNil(b.GetBootOptions()),
	}
}

func disksFromProto(storage []*pb.StorageDevice) []types.Disk {
	if len(storage) == 0 {
		return nil
	}
	ids := newIDs("disk", storage)
	disks := make([]types.Disk, len(storage))
	for i, d := range storage {
		disks[i] = types.Disk{
			ID:        ids.at(i, d.GetId()),
			Path:      d.GetPath(),
			ReadOnly:  d.GetReadOnly(),
			Root:      d.GetIsRootDevice() || len(storage) == 1,
			Interface: d.GetInterfaceType(),
			Options:   orNil(d.GetOptions()),
		}
	}
	return disks
}

func networksFromProto(network []*pb.NetworkInterface) []types.Network {
	if len(network) == 0 {
		return nil
	}
	ids := newIDs("net", network)
	networks := make([]types.Network, len(network))
	for i, n := range network {
		networks[i] = types.Network{
			ID:        ids.at(i, n.GetId()),
			MAC:       n.GetMacAddress(),
			Tap:       n.GetTapDevice(),
			Interface: n.GetInterfaceType(),
			Options:   orNil(n.GetOptions()),
		}
	}
	return networks
}

func consoleFromProto(c *pb.ConsoleConfig) types.Console {
	if c == nil {
		return types.Console{Enabled: true, Output: "log"}
	}
	return types.Console{
		Asked:   true,
		Enabled: c.GetEnabled(),
		Output:  c.GetOutput(),
		Input:   c.GetInput(),
		Type:    c.GetConsoleType(),
	}
}

// ids names devices that came without a name, by their place, never as another device is named.
type ids struct {
	prefix string
	taken  map[string]bool
}

func newIDs[D interface{ GetId() string }](prefix string, devices []D) ids {
	taken := make(map[string]bool, len(devices))
	for _, d := range devices {
		taken[d.GetId()] = true
	}
	return ids{prefix: prefix, taken: taken}
}

func (n ids) at(i int, given string) string {
	if given != "" {
		return given
	}
	for {
		if id := fmt.Sprintf("%s%d", n.prefix, i); !n.taken[id] {
			n.taken[id] = true
			return id
		}
		i++
	}
}

// orNil makes no difference between an empty map and none, as the wire does not.
func orNil(m map[string]string) map[string]string {
	if len(m) == 0 {
		return nil
	}
	return m
}

func stateToProto(s lifecycle.State) pb.VmState {
	switch s {
	case lifecycle.Created:
		return pb.VmState_VM_STATE_CREATED
	case lifecycle.Running:
		return pb.VmState_VM_STATE_RUNNING
	case lifecycle.Paused:
		return pb.VmState_VM_STATE_PAUSED
	case lifecycle.Shutdown:
		return pb.VmState_VM_STATE_SHUTDOWN
	default: // Absent and Gone are never reported
		return pb.VmState_VM_STATE_UNSPECIFIED
	}
}

func statesFromProto(filter []pb.VmState) []lifecycle.State {
	var states []lifecycle.State
	for _, s := range filter {
		switch s {
		case pb.VmState_VM_STATE_CREATED:
			states = append(states, lifecycle.Created)
		case pb.VmState_VM_STATE_RUNNING:
			states = append(states, lifecycle.Running)
		case pb.VmState_VM_STATE_PAUSED:
			states = append(states, lifecycle.Paused)
		case pb.VmState_VM_STATE_SHUTDOWN:
			states = append(states, lifecycle.Shutdown)
		}
	}
	return states
}

// unixSeconds is 0, that is absent, for a time that is not known.
func unixSeconds(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.Unix()
}
