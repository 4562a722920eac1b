package firecracker

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/unkeyed/unkey/go/deploy/metald/internal/backend/types"
)

var update = flag.Bool("update", false, "write the golden files anew")

func quickStart() types.Spec {
	return types.Spec{
		CPU: types.CPU{Count: 1}, Memory: types.Memory{SizeBytes: 128 << 20},
		Boot:    types.Boot{KernelPath: "/opt/vm-assets/vmlinux", KernelArgs: "console=ttyS0 reboot=k panic=1 pci=off"},
		Disks:   []types.Disk{{ID: "disk-0", Path: "/opt/vm-assets/rootfs.ext4"}},
		Console: types.Console{Enabled: true},
	}
}

// request1 asks for the first incarnation of a VM, with paths as they are in a jail.
func request1(spec types.Spec) types.CreateRequest {
	req := types.CreateRequest{ID: "web-1", Incarnation: 1, Spec: spec, Kernel: "/vmlinux"}
	if spec.Boot.InitrdPath != "" {
		req.Initrd = "/initrd"
	}
	for i := range spec.Disks {
		req.Disks = append(req.Disks, fmt.Sprintf("/disk%d", i))
	}
	return req
}

// wanted are the requests of the golden files.
func wanted() map[string]types.CreateRequest {
	everything := types.Spec{
		CPU:    types.CPU{Count: 4, Max: 4},
		Memory: types.Memory{SizeBytes: 1 << 30, MaxSizeBytes: 1 << 30},
		Boot:   types.Boot{KernelPath: "/k", InitrdPath: "/opt/vm-assets/initrd", KernelArgs: `root=/dev/vdb say="a,b" -- init=x`},
		Disks: []types.Disk{
			{ID: "data-1", ReadOnly: true, Interface: "virtio-blk"}, {ID: "root", Root: true}, {ID: "data_1"},
		},
		Networks: []types.Network{
			{ID: "lan-0", Tap: "tap0", MAC: "52:54:00:12:34:56", Interface: "virtio-net"}, {ID: "wan", Tap: "tap1.7"},
		},
		Console:  types.Console{Enabled: true, Output: "log", Input: "none", Type: "serial"},
		Metadata: map[string]string{"team": "a"},
	}
	silent := quickStart()
	silent.Console.Enabled, silent.Boot.KernelArgs, silent.Disks[0].ReadOnly = false, "", true
	diskless := quickStart()
	diskless.Disks, diskless.Boot.InitrdPath = nil, "/opt/vm-assets/initrd"
	return map[string]types.CreateRequest{
		"quickstart": request1(quickStart()), "everything": request1(everything), "silent": request1(silent),
		"diskless": request1(diskless),
	}
}

func TestCallsAreTheGoldenOnes(t *testing.T) {
	for name, req := range wanted() {
		t.Run(name, func(t *testing.T) {
			if refused := capabilities().Refusals(Name, req.Spec); len(refused) != 0 {
				t.Fatalf("it is refused: %v", refused)
			}
			calls, err := translate(req, sinks{console: "/console.fifo", metrics: "/metrics"})
			must(t, err)
			var b strings.Builder
			for _, cl := range calls {
				fmt.Fprintf(&b, "%s %s\n", cl, cl.Body)
			}
			golden := filepath.Join("testdata", name+".golden")
			if *update {
				must(t, os.WriteFile(golden, []byte(b.String()), 0o644))
			}
			want, err := os.ReadFile(golden)
			must(t, err)
			if diff := cmp.Diff(string(want), b.String()); diff != "" {
				t.Errorf("-golden +got:\n%s", diff)
			}
		})
	}
}

func TestKernelArgs(t *testing.T) {
	const keys = "i8042.noaux i8042.nomux i8042.dumbkbd"
	for _, c := range []struct {
		given, want string
		byVMM       bool
		change      func(*types.Spec)
	}{
		{given: "", want: "console=ttyS0 reboot=k panic=1 " + keys, byVMM: true},
		{given: "root=/dev/vda1", want: "console=ttyS0 reboot=k panic=1 " + keys + " root=/dev/vda1"},
		{given: " ro  quiet ", want: "console=ttyS0 reboot=k panic=1 " + keys + " root=/dev/vda ro  quiet"},
		{given: "rw", want: "console=ttyS0 reboot=k panic=1 " + keys + " root=/dev/vda rw"},
		{given: "panic=5 reboot=t console=hvc0 " + keys, want: "panic=5 reboot=t console=hvc0 " + keys, byVMM: true},
		{given: `x="panic=1 root=/dev/sda --"`, want: "console=ttyS0 reboot=k panic=1 " + keys + ` x="panic=1 root=/dev/sda --"`, byVMM: true},
		{given: "a -- root=1", want: "console=ttyS0 reboot=k panic=1 " + keys + " a -- root=1", byVMM: true},
		{given: "q", want: "8250.nr_uarts=0 reboot=k panic=1 " + keys + " q", byVMM: true, change: func(s *types.Spec) {
			s.Console.Enabled = false
		}},
		{given: "ro", want: "console=ttyS0 reboot=k panic=1 " + keys + " ro", change: func(s *types.Spec) { s.Disks = nil }},
		{given: "q", want: "console=ttyS0 reboot=k panic=1 " + keys + " q", change: func(s *types.Spec) {
			s.Disks = append(s.Disks, types.Disk{ID: "other"}) // two, and none is marked
		}},
	} {
		spec := quickStart()
		spec.Boot.KernelArgs = c.given
		if c.change != nil {
			c.change(&spec)
		}
		got, err := kernelArgs(spec)
		if err != nil || got != (bootArgs{c.want, c.byVMM}) {
			t.Errorf("%q became\n%q, %t, %v, want\n%q, %t", c.given, got.line, got.rootByVMM, err, c.want, c.byVMM)
		}
	}
}

func TestWhatCannotBeTranslated(t *testing.T) {
	for field, change := range map[string]func(*types.Spec){
		"config.boot.kernel_args":      func(s *types.Spec) { s.Boot.KernelArgs = strings.Repeat("x", 1900) },
		"config.memory.size_bytes":     func(s *types.Spec) { s.Memory.SizeBytes++ },
		"config.network[0].tap_device": func(s *types.Spec) { s.Networks = []types.Network{{ID: "lan"}} },
	} {
		spec := quickStart()
		change(&spec)
		calls, err := translate(request1(spec), sinks{})
		e, ok := err.(*types.Error)
		if !ok || e.Kind != types.KindInvalid || e.Field != field || calls != nil {
			t.Errorf("%d calls, error %v, want one about %s", len(calls), err, field)
		}
	}
}

func TestMACsDiffer(t *testing.T) {
	seen := map[string]bool{}
	for _, vm := range []types.VMID{"a", "b"} {
		for _, nic := range []string{"one", "two"} {
			mac := macAddress(vm, types.Network{ID: nic})
			if mac != macAddress(vm, types.Network{ID: nic}) || !strings.HasPrefix(mac, "02:fc:") {
				t.Errorf("address %s", mac)
			}
			seen[mac] = true
		}
	}
	if len(seen) != 4 {
		t.Errorf("addresses %v", seen)
	}
}

// Each field that backends differ in is either in the translation or refused by its name.
func TestCapabilitiesRefuseByName(t *testing.T) {
	for _, field := range types.Fields() {
		if s, ok := capabilities().Fields[field]; !ok || !s.OK && s.Note == "" {
			t.Errorf("nothing says why %s is refused", field)
		}
	}
	spec := quickStart()
	spec.CPU = types.CPU{Count: 33, Max: 34, Topology: &types.Topology{Sockets: 1, CoresPerSocket: 1, ThreadsPerCore: 1},
		Features: map[string]string{"avx": "off"}}
	spec.Memory = types.Memory{SizeBytes: 31 << 20, Hotplug: true, MaxSizeBytes: 1 << 30, Backing: map[string]string{"hugepages": "2M"}}
	spec.Boot.Options = map[string]string{"machine": "q35"}
	spec.Disks[0].Interface, spec.Disks[0].Options = "nvme", map[string]string{"cache": "none"}
	spec.Networks = []types.Network{{Tap: "t", Interface: "e1000", Options: map[string]string{"queues": "2"}}}
	spec.Console.Type, spec.Console.Input = "virtio", "/dev/null"
	var got []string
	for _, e := range capabilities().Refusals(Name, spec) {
		got = append(got, e.Field)
	}
	want := []string{
		"config.cpu.vcpu_count", "config.memory.size_bytes", "config.cpu.max_vcpu_count", "config.cpu.topology",
		`config.cpu.features["avx"]`, "config.memory.hotplug_enabled", "config.memory.max_size_bytes",
		`config.memory.backing["hugepages"]`, `config.boot.boot_options["machine"]`, "config.storage[0].interface_type",
		`config.storage[0].options["cache"]`, "config.network[0].interface_type", `config.network[0].options["queues"]`,
		"config.console.input", "config.console.console_type",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}
