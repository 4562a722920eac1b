package cloudhypervisor

import (
	"bytes"
	"encoding/json"
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

// request1 asks for the first incarnation of a VM, with paths as its VMM sees them.
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

// here is where the VMMs of these tests run: they lock themselves in.
var here = surroundings{landlock: true, rules: []landlockRule{{Path: "/run", Access: "rw"}}}

// wanted are the requests of the golden files.
func wanted() map[string]types.CreateRequest {
	everything := types.Spec{
		CPU: types.CPU{Count: 2, Max: 8, Topology: &types.Topology{Sockets: 2, CoresPerSocket: 2, ThreadsPerCore: 2},
			Features: map[string]string{"amx": "on"}},
		Memory: types.Memory{SizeBytes: 1 << 30, Hotplug: true, MaxSizeBytes: 3 << 30,
			Backing: map[string]string{"shared": "on", "hugepages": "on", "hugepage_size": "1G"}},
		Boot: types.Boot{KernelPath: "/k", InitrdPath: "/opt/vm-assets/initrd", KernelArgs: `root=/dev/vdb say="a,b" -- init=x`},
		Disks: []types.Disk{
			{ID: "data-1", ReadOnly: true, Interface: "virtio-blk"}, {ID: "root", Root: true, Options: map[string]string{"direct": "on"}},
			{ID: "__an-id-that-is-long-and-reserved", Options: map[string]string{"direct": "off"}},
		},
		Networks: []types.Network{
			{ID: "lan-0", Tap: "tap0", MAC: "52:54:00:12:34:56", Interface: "virtio-net", Options: map[string]string{"offload": "off"}},
			{ID: "wan", Tap: "tap1.7", Options: map[string]string{"offload": "on"}},
		},
		Console:  types.Console{Enabled: true, Output: "log", Input: "none", Type: "serial"},
		Metadata: map[string]string{"team": "a"},
	}
	silent := quickStart()
	silent.Console.Enabled, silent.Boot.KernelArgs, silent.Disks[0].ReadOnly = false, "", true
	silent.CPU.Features, silent.Memory.Backing = map[string]string{"amx": "off"}, map[string]string{"shared": "off", "hugepages": "off"}
	silent.CPU.Max, silent.Memory.MaxSizeBytes = 1, 128<<20 // no more than there is
	diskless := quickStart()
	diskless.Disks, diskless.Boot.InitrdPath = nil, "/opt/vm-assets/initrd"
	return map[string]types.CreateRequest{
		"quickstart": request1(quickStart()), "everything": request1(everything), "silent": request1(silent),
		"diskless": request1(diskless),
	}
}

func TestPlansAreTheGoldenOnes(t *testing.T) {
	for name, req := range wanted() {
		t.Run(name, func(t *testing.T) {
			if refused := capabilities().Refusals(Name, req.Spec); len(refused) != 0 {
				t.Fatalf("it is refused: %v", refused)
			}
			p, err := translate(req, here)
			must(t, err)
			var b bytes.Buffer
			must(t, json.Indent(&b, putCreate(p.config).Body, "", "  "))
			for _, n := range p.networks {
				fmt.Fprintf(&b, "\n%s", putAddNet(n).Body)
			}
			b.WriteByte('\n')
			golden := filepath.Join("testdata", name+".golden")
			if *update {
				must(t, os.WriteFile(golden, b.Bytes(), 0o644))
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
	for _, c := range []struct {
		given, want string
		change      func(*types.Spec)
	}{
		{given: "", want: "console=ttyS0 reboot=k panic=1 root=/dev/vda rw"},
		{given: "root=/dev/vda1", want: "console=ttyS0 reboot=k panic=1 root=/dev/vda1"},
		{given: " ro  quiet ", want: "console=ttyS0 reboot=k panic=1 root=/dev/vda ro  quiet"},
		{given: "", want: "console=ttyS0 reboot=k panic=1 root=/dev/vda ro", change: func(s *types.Spec) { s.Disks[0].ReadOnly = true }},
		{given: "panic=5 reboot=t console=hvc0", want: "root=/dev/vda rw panic=5 reboot=t console=hvc0"},
		{given: `x="panic=1 root=/dev/sda --"`, want: `console=ttyS0 reboot=k panic=1 root=/dev/vda rw x="panic=1 root=/dev/sda --"`},
		{given: "a -- root=1", want: "console=ttyS0 reboot=k panic=1 root=/dev/vda rw a -- root=1"},
		{given: "q", want: "reboot=k panic=1 root=/dev/vda rw q", change: func(s *types.Spec) { s.Console.Enabled = false }},
		{given: "pci=off pci=nomsi -- pci=off", want: "console=ttyS0 reboot=k panic=1 root=/dev/vda rw pci=nomsi -- pci=off"},
		{given: "ro", want: "console=ttyS0 reboot=k panic=1 ro", change: func(s *types.Spec) { s.Disks = nil }},
		{given: "q", want: "console=ttyS0 reboot=k panic=1 q", change: func(s *types.Spec) {
			s.Disks = append(s.Disks, types.Disk{ID: "other"}) // two, and none is marked
		}},
	} {
		spec := quickStart()
		spec.Boot.KernelArgs = c.given
		if c.change != nil {
			c.change(&spec)
		}
		if got, err := kernelArgs(spec); err != nil || got != c.want {
			t.Errorf("%q became\n%q, %v, want\n%q", c.given, got, err, c.want)
		}
	}
}

// What Cloud Hypervisor would say only at the boot, or never, is said before there is a process, by the field.
func TestWhatCannotBeTranslated(t *testing.T) {
	backing := func(pairs ...string) func(*types.Spec) {
		return func(s *types.Spec) {
			s.Memory.Backing = map[string]string{}
			for i := 0; i < len(pairs); i += 2 {
				s.Memory.Backing[pairs[i]] = pairs[i+1]
			}
		}
	}
	topology := func(count, most, sockets, cores, threads int) func(*types.Spec) {
		return func(s *types.Spec) {
			s.CPU.Count, s.CPU.Max, s.CPU.Topology = count, most, &types.Topology{Sockets: sockets, CoresPerSocket: cores, ThreadsPerCore: threads}
		}
	}
	hotplug := func(on bool, most int64, pairs ...string) func(*types.Spec) {
		return func(s *types.Spec) {
			backing(pairs...)(s)
			s.Memory.Hotplug, s.Memory.MaxSizeBytes, s.Memory.SizeBytes = on, most, 1<<30
		}
	}
	for name, c := range map[string]struct {
		field  string
		change func(*types.Spec)
	}{
		"long arguments":       {"config.boot.kernel_args", func(s *types.Spec) { s.Boot.KernelArgs = strings.Repeat("x", 2048) }},
		"no tap":               {"config.network[0].tap_device", func(s *types.Spec) { s.Networks = []types.Network{{ID: "lan"}} }},
		"fewer than at boot":   {"config.cpu.max_vcpu_count", func(s *types.Spec) { s.CPU.Count, s.CPU.Max = 4, 2 }},
		"product of the count": {"config.cpu.topology", topology(2, 4, 1, 2, 1)},
		"no product":           {"config.cpu.topology", topology(2, 0, 0, 0, 0)},
		"huge product":         {"config.cpu.topology", topology(1, 0, 1<<31, 1<<31, 4)},
		"three threads":        {"config.cpu.topology.threads_per_core", topology(3, 0, 1, 1, 3)},
		"amx of a kind":        {`config.cpu.features["amx"]`, func(s *types.Spec) { s.CPU.Features = map[string]string{"amx": "true"} }},
		"shared of a kind":     {`config.memory.backing["shared"]`, backing("shared", "")},
		"huge pages of a kind": {`config.memory.backing["hugepages"]`, backing("hugepages", "2M")},
		"size of a kind":       {`config.memory.backing["hugepage_size"]`, backing("hugepages", "on", "hugepage_size", "4M")},
		"size of what":         {`config.memory.backing["hugepage_size"]`, backing("hugepage_size", "2M")},
		"no whole page":        {"config.memory.size_bytes", func(s *types.Spec) { backing("hugepages", "on")(s); s.Memory.SizeBytes = 129 << 20 }},
		"no whole great page":  {"config.memory.size_bytes", func(s *types.Spec) { backing("hugepages", "on", "hugepage_size", "1G")(s) }},
		"room without hotplug": {"config.memory.max_size_bytes", hotplug(false, 2<<30)},
		"hotplug without room": {"config.memory.hotplug_enabled", hotplug(true, 0)},
		"hotplug of nothing":   {"config.memory.hotplug_enabled", hotplug(true, 1<<30)},
		"less than at boot":    {"config.memory.max_size_bytes", hotplug(true, 1<<29)},
		"half a step":          {"config.memory.max_size_bytes", hotplug(true, 1<<30+64<<20)},
		"half a great page":    {"config.memory.max_size_bytes", hotplug(true, 3<<29, "hugepages", "on", "hugepage_size", "1G")},
		"direct of a kind":     {`config.storage[0].options["direct"]`, func(s *types.Spec) { s.Disks[0].Options = map[string]string{"direct": "yes"} }},
		"offload of a kind": {`config.network[0].options["offload"]`, func(s *types.Spec) {
			s.Networks = []types.Network{{Tap: "t", Options: map[string]string{"offload": "1"}}}
		}},
	} {
		t.Run(name, func(t *testing.T) {
			spec := quickStart()
			c.change(&spec)
			p, err := translate(request1(spec), here)
			e, ok := err.(*types.Error)
			if !ok || e.Kind != types.KindInvalid || e.Field != c.field || p.config.Payload.Kernel != "" {
				t.Errorf("%+v, error %v, want one about %s", p, err, c.field)
			}
		})
	}
}

func TestMACsDiffer(t *testing.T) {
	seen := map[string]bool{}
	for _, vm := range []types.VMID{"a", "b"} {
		for _, nic := range []string{"one", "two"} {
			mac := macAddress(vm, types.Network{ID: nic})
			if mac != macAddress(vm, types.Network{ID: nic}) || !strings.HasPrefix(mac, "02:c8:") {
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
	spec.CPU = types.CPU{Count: 257, Max: 258, Features: map[string]string{"avx": "off"}}
	spec.Memory = types.Memory{SizeBytes: 31 << 20, Backing: map[string]string{"file": "/x"}}
	spec.Boot.Options = map[string]string{"firmware": "/x"}
	spec.Disks[0].Interface, spec.Disks[0].Options = "nvme", map[string]string{"cache": "none"}
	spec.Networks = []types.Network{{Tap: "t", Interface: "e1000", Options: map[string]string{"queues": "2"}}}
	spec.Console.Type, spec.Console.Input = "virtio", "/dev/null"
	var got []string
	for _, e := range capabilities().Refusals(Name, spec) {
		got = append(got, e.Field)
	}
	want := []string{
		"config.cpu.vcpu_count", "config.cpu.max_vcpu_count", "config.memory.size_bytes", `config.cpu.features["avx"]`,
		`config.memory.backing["file"]`, `config.boot.boot_options["firmware"]`, "config.storage[0].interface_type",
		`config.storage[0].options["cache"]`, "config.network[0].interface_type", `config.network[0].options["queues"]`,
		"config.console.input", "config.console.console_type",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}
