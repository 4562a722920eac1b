package api

import (
	"strconv"
	"strings"
	"time"

	pb "github.com/unkeyed/unkey/go/deploy/metald/gen/vmprovisioner/v1"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/backend/types"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/vm"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/vm/lifecycle"
)

// specToProto is the inverse of specFromProto. Sent to CreateVm again, its result means the same Spec.
func specToProto(s types.Spec) *pb.VmConfig {
	c := &pb.VmConfig{
		Cpu: &pb.CpuConfig{VcpuCount: int32(s.CPU.Count), MaxVcpuCount: int32(s.CPU.Max), Features: s.CPU.Features},
		Memory: &pb.MemoryConfig{
			SizeBytes:      s.Memory.SizeBytes,
			HotplugEnabled: s.Memory.Hotplug,
			MaxSizeBytes:   s.Memory.MaxSizeBytes,
			Backing:        s.Memory.Backing,
		},
		Boot: &pb.BootConfig{
			KernelPath:  s.Boot.KernelPath,
			InitrdPath:  s.Boot.InitrdPath,
			KernelArgs:  s.Boot.KernelArgs,
			BootOptions: s.Boot.Options,
		},
		Storage:  storageToProto(s.Disks),
		Network:  networkToProto(s.Networks),
		Console:  consoleToProto(s.Console),
		Metadata: s.Metadata,
	}
	if t := s.CPU.Topology; t != nil {
		c.Cpu.Topology = &pb.CpuTopology{
			Sockets:        int32(t.Sockets),
			CoresPerSocket: int32(t.CoresPerSocket),
			ThreadsPerCore: int32(t.ThreadsPerCore),
		}
	}
	return c
}

func storageToProto(disks []types.Disk) []*pb.StorageDevice {
	var out []*pb.StorageDevice
	for _, d := range disks {
		out = append(out, &pb.StorageDevice{
			Id: d.ID, Path: d.Path, ReadOnly: d.ReadOnly, IsRootDevice: d.Root, InterfaceType: d.Interface, Options: d.Options,
		})
	}
	return out
}

func networkToProto(networks []types.Network) []*pb.NetworkInterface {
	var out []*pb.NetworkInterface
	for _, n := range networks {
		out = append(out, &pb.NetworkInterface{
			Id: n.ID, MacAddress: n.MAC, TapDevice: n.Tap, InterfaceType: n.Interface, Options: n.Options,
		})
	}
	return out
}

// consoleToProto returns nil where the client sent no console block.
func consoleToProto(c types.Console) *pb.ConsoleConfig {
	if !c.Asked {
		return nil
	}
	return &pb.ConsoleConfig{Enabled: c.Enabled, Output: c.Output, Input: c.Input, ConsoleType: c.Type}
}

// minCPUPeriod is how long a guest must have run before its processor time says something about the guest: until then
// most of it is what the VMM took to start.
const minCPUPeriod = time.Second

// metricsToProto shows what is known of a running or paused VM. Everything in u that is nil stays unset.
func metricsToProto(info vm.Info, u types.Usage, now time.Time) *pb.VmMetrics {
	m := &pb.VmMetrics{NetworkStats: networkStats(u.Networks), StorageStats: storageStats(u.Disks)}
	if u.MemoryBytes != nil {
		m.MemoryUsageBytes = *u.MemoryBytes
	}
	if info.BootedAt.IsZero() {
		return m
	}
	if elapsed := u.At.Sub(info.BootedAt); u.CPUTime != nil && elapsed >= minCPUPeriod {
		m.CpuUsagePercent = 100 * u.CPUTime.Seconds() / elapsed.Seconds()
	}
	if info.State == lifecycle.Running {
		m.UptimeSeconds = int64(max(0, now.Sub(info.BootedAt)) / time.Second)
	}
	return m
}

func networkStats(networks map[string]types.NetworkUsage) *pb.NetworkStats {
	if networks == nil {
		return nil
	}
	sum := &pb.NetworkStats{}
	for _, n := range networks {
		sum.BytesReceived += n.ReceivedBytes
		sum.BytesTransmitted += n.SentBytes
		sum.PacketsReceived += n.ReceivedPackets
		sum.PacketsTransmitted += n.SentPackets
	}
	return sum
}

func storageStats(disks map[string]types.DiskUsage) *pb.StorageStats {
	if disks == nil {
		return nil
	}
	sum := &pb.StorageStats{}
	for _, d := range disks {
		sum.BytesRead += d.ReadBytes
		sum.BytesWritten += d.WriteBytes
		sum.ReadOperations += d.ReadOps
		sum.WriteOperations += d.WriteOps
	}
	return sum
}

// backendInfo says what is known of the VMM; what is not known has no key.
func backendInfo(info vm.Info) map[string]string {
	out := make(map[string]string, 8)
	set := func(key, value string) {
		if value != "" {
			out[key] = value
		}
	}
	set("backend", info.Backend)
	set("vmm", info.VMM)
	set("vmm_version", info.VMMVersion)
	set("health", info.Health)
	if info.PID != 0 {
		out["pid"] = strconv.Itoa(info.PID)
	}
	if info.Incarnation != 0 {
		out["incarnation"] = strconv.FormatUint(info.Incarnation, 10)
	}
	if exit := info.Exit; exit != nil {
		set("exit_reason", exit.Reason)
		set("exit_detail", exit.Detail)
		switch {
		case strings.HasPrefix(exit.Reason, "guest-"): // the guest ended; how its VMM then did, or was, is the backend's way
		case exit.Signal != 0:
			out["exit_signal"] = strconv.Itoa(exit.Signal)
		case exit.Code >= 0:
			out["exit_code"] = strconv.Itoa(exit.Code)
		}
		if !info.ExitedAt.IsZero() {
			out["exited_at"] = info.ExitedAt.UTC().Format(time.RFC3339Nano)
		}
	}
	return out
}
