package api

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/testing/protocmp"
	"pgregory.net/rapid"

	pb "github.com/unkeyed/unkey/go/deploy/metald/gen/vmprovisioner/v1"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/backend/types"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/vm"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/vm/lifecycle"
)

func stringMap() *rapid.Generator[map[string]string] {
	return rapid.MapOfN(rapid.StringMatching(`[a-z]{1,4}`), rapid.StringMatching(`[ -~]{0,8}`), 0, 3)
}

// configs generates configs within the rules of the proto file.
func configs() *rapid.Generator[*pb.VmConfig] {
	return rapid.Custom(func(t *rapid.T) *pb.VmConfig {
		vcpus := rapid.Int32Range(1, 8).Draw(t, "vcpus")
		c := &pb.VmConfig{
			Cpu:      &pb.CpuConfig{VcpuCount: vcpus, Features: stringMap().Draw(t, "features")},
			Memory:   &pb.MemoryConfig{SizeBytes: rapid.Int64Range(1, 4096).Draw(t, "MiB") << 20, Backing: stringMap().Draw(t, "backing")},
			Boot:     &pb.BootConfig{KernelPath: "/k", KernelArgs: rapid.StringMatching(`[ -~]{0,20}`).Draw(t, "args")},
			Metadata: stringMap().Draw(t, "metadata"),
		}
		if rapid.Bool().Draw(t, "topology") {
			c.Cpu.Topology = &pb.CpuTopology{Sockets: 1, CoresPerSocket: vcpus, ThreadsPerCore: 1}
		}
		if rapid.Bool().Draw(t, "hotplug") {
			c.Memory.HotplugEnabled, c.Memory.MaxSizeBytes = true, c.Memory.SizeBytes+1<<20
			c.Cpu.MaxVcpuCount = vcpus
		}
		if rapid.Bool().Draw(t, "console") {
			c.Console = &pb.ConsoleConfig{Enabled: true, Output: rapid.SampledFrom([]string{"", "log", "none"}).Draw(t, "output")}
		}
		ids := rapid.SliceOfNDistinct(rapid.SampledFrom([]string{"disk0", "disk1", "disk2", "net0", "net1", "a"}), 0, 4, rapid.ID).Draw(t, "ids")
		root := rapid.IntRange(-1, 3).Draw(t, "root")
		for i, id := range ids {
			if rapid.Bool().Draw(t, "unnamed") {
				id = ""
			}
			c.Storage = append(c.Storage, &pb.StorageDevice{Id: id, Path: "/d", ReadOnly: rapid.Bool().Draw(t, "ro"), IsRootDevice: i == root})
			c.Network = append(c.Network, &pb.NetworkInterface{Id: id, Options: stringMap().Draw(t, "options")})
		}
		return c
	})
}

func TestAConfigComesBackAsItWasSent(t *testing.T) {
	check, err := newValidator()
	if err != nil {
		t.Fatal(err)
	}
	rapid.Check(t, func(t *rapid.T) {
		sent := configs().Draw(t, "config")
		if err := check.check(&pb.CreateVmRequest{Config: sent}); err != nil {
			t.Fatalf("the generator breaks a rule: %v", err)
		}
		spec := specFromProto(sent)
		got := specToProto(spec)
		if err := check.check(&pb.CreateVmRequest{Config: got}); err != nil {
			t.Errorf("what GetVmInfo returns breaks a rule: %v", err)
		}
		if diff := cmp.Diff(spec, specFromProto(got)); diff != "" {
			t.Errorf("what GetVmInfo returns means another spec:\n%s", diff)
		}
		// Apart from the defaults it is what was sent.
		want := proto.CloneOf(sent)
		for i, d := range want.GetStorage() {
			if d.GetId() == "" {
				d.Id = got.GetStorage()[i].GetId()
			}
			d.IsRootDevice = d.GetIsRootDevice() || len(want.GetStorage()) == 1
		}
		for i, n := range want.GetNetwork() {
			if n.GetId() == "" {
				n.Id = got.GetNetwork()[i].GetId()
			}
		}
		if diff := cmp.Diff(want, got, protocmp.Transform(), protocmp.IgnoreEmptyMessages()); diff != "" {
			t.Errorf("sent and returned differ:\n%s", diff)
		}
	})
}

func TestDefaults(t *testing.T) {
	spec := specFromProto(&pb.VmConfig{
		Storage: []*pb.StorageDevice{{Path: "/a"}, {Path: "/b", Id: "disk0"}, {Path: "/c"}},
		Network: []*pb.NetworkInterface{{Id: "net1"}, {}},
	})
	ids := []string{spec.Disks[0].ID, spec.Disks[1].ID, spec.Disks[2].ID, spec.Networks[0].ID, spec.Networks[1].ID}
	if got := strings.Join(ids, " "); got != "disk1 disk0 disk2 net1 net2" {
		t.Errorf("ids %s", got)
	}
	for i, d := range spec.Disks {
		if d.Root {
			t.Errorf("disk %d of several unmarked ones is the root device", i)
		}
	}
	if !spec.Console.Enabled || spec.Console.Output != "log" || spec.Console.Asked {
		t.Errorf("console %+v", spec.Console)
	}
	if one := specFromProto(&pb.VmConfig{Storage: []*pb.StorageDevice{{Path: "/a"}}}); !one.Disks[0].Root {
		t.Error("a single disk is not the root device")
	}
}

func TestEveryStateThereAndBack(t *testing.T) {
	for _, s := range []lifecycle.State{lifecycle.Created, lifecycle.Running, lifecycle.Paused, lifecycle.Shutdown} {
		p := stateToProto(s)
		if back := statesFromProto([]pb.VmState{p}); len(back) != 1 || back[0] != s || p.String() != "VM_STATE_"+s.String() {
			t.Errorf("%v → %v → %v", s, p, back)
		}
	}
}

func TestMetricsShowWhatIsKnown(t *testing.T) {
	booted := time.Unix(1000, 0)
	cpu, memory := 3*time.Second, int64(42<<20)
	full := types.Usage{
		At: booted.Add(10 * time.Second), CPUTime: &cpu, MemoryBytes: &memory,
		Disks: map[string]types.DiskUsage{
			"a": {ReadBytes: 1, WriteBytes: 2, ReadOps: 3, WriteOps: 4},
			"b": {ReadBytes: 10, WriteBytes: 20, ReadOps: 30, WriteOps: 40},
		},
		Networks: map[string]types.NetworkUsage{"n": {ReceivedBytes: 5, SentBytes: 6, ReceivedPackets: 7, SentPackets: 8}},
	}
	for _, tc := range []struct {
		name  string
		info  vm.Info
		usage types.Usage
		want  *pb.VmMetrics
	}{
		{"all", vm.Info{State: lifecycle.Running, BootedAt: booted}, full, &pb.VmMetrics{
			CpuUsagePercent: 30, MemoryUsageBytes: 42 << 20, UptimeSeconds: 11,
			StorageStats: &pb.StorageStats{BytesRead: 11, BytesWritten: 22, ReadOperations: 33, WriteOperations: 44},
			NetworkStats: &pb.NetworkStats{BytesReceived: 5, BytesTransmitted: 6, PacketsReceived: 7, PacketsTransmitted: 8},
		}},
		{"paused has no uptime", vm.Info{State: lifecycle.Paused, BootedAt: booted}, types.Usage{}, &pb.VmMetrics{}},
		{"nothing measured", vm.Info{State: lifecycle.Running, BootedAt: booted}, types.Usage{}, &pb.VmMetrics{UptimeSeconds: 11}},
		{"boot was not seen", vm.Info{State: lifecycle.Running}, types.Usage{At: full.At, CPUTime: &cpu}, &pb.VmMetrics{}},
		{"reading of an earlier incarnation", vm.Info{State: lifecycle.Running, BootedAt: full.At.Add(time.Second)}, types.Usage{At: full.At, CPUTime: &cpu}, &pb.VmMetrics{}},
		{"just booted", vm.Info{State: lifecycle.Paused, BootedAt: full.At.Add(-time.Second / 2)}, types.Usage{At: full.At, CPUTime: &cpu}, &pb.VmMetrics{}},
		{"no disks is no I/O", vm.Info{State: lifecycle.Running}, types.Usage{Disks: map[string]types.DiskUsage{}}, &pb.VmMetrics{StorageStats: &pb.StorageStats{}}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			got := metricsToProto(tc.info, tc.usage, booted.Add(11500*time.Millisecond))
			if diff := cmp.Diff(tc.want, got, protocmp.Transform()); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestBackendInfoHasOnlyWhatIsKnown(t *testing.T) {
	if got := backendInfo(vm.Info{Backend: "qemu"}); len(got) != 1 || got["backend"] != "qemu" {
		t.Errorf("before the first boot: %v", got)
	}
	ended := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	killed := vm.Info{
		Backend: "qemu", VMM: "QEMU", VMMVersion: "7.2.22", Incarnation: 2,
		Exit: &types.Exit{Reason: types.ReasonKilled, Code: -1, Signal: 9}, ExitedAt: ended,
	}
	want := map[string]string{
		"backend": "qemu", "vmm": "QEMU", "vmm_version": "7.2.22", "incarnation": "2",
		"exit_reason": "vmm-killed", "exit_signal": "9", "exited_at": "2026-01-02T03:04:05Z",
	}
	if diff := cmp.Diff(want, backendInfo(killed)); diff != "" {
		t.Error(diff)
	}
	quit := vm.Info{Exit: &types.Exit{Reason: types.ReasonGuestShutdown, Detail: "said goodbye"}, PID: 7, Health: "no answer"}
	want = map[string]string{"exit_reason": "guest-shutdown", "exit_detail": "said goodbye", "pid": "7", "health": "no answer"}
	if diff := cmp.Diff(want, backendInfo(quit)); diff != "" {
		t.Error(diff)
	}
}
