package qemu

import (
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/unkeyed/unkey/go/deploy/metald/internal/backend/backendtest"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/backend/types"
)

var update = flag.Bool("update", false, "write the golden files anew")

var tcgHost = hostFacts{accel: accelTCG, tscKHz: 2600000}

func quickStart() types.Spec {
	return types.Spec{
		CPU: types.CPU{Count: 1}, Memory: types.Memory{SizeBytes: 128 << 20},
		Boot:    types.Boot{KernelPath: "/opt/vm-assets/vmlinux", KernelArgs: "console=ttyS0 reboot=k panic=1 pci=off"},
		Disks:   []types.Disk{{ID: "disk-0", Path: "/opt/vm-assets/rootfs.ext4"}},
		Console: types.Console{Enabled: true},
	}
}

func TestArgumentsAreTheGoldenOnes(t *testing.T) {
	everything := types.Spec{
		CPU: types.CPU{
			Count: 4, Topology: &types.Topology{Sockets: 1, CoresPerSocket: 2, ThreadsPerCore: 2},
			Features: map[string]string{"avx2": "off", "rdrand": "on"},
		},
		Memory: types.Memory{SizeBytes: 1 << 30},
		Boot:   types.Boot{InitrdPath: "/opt/vm-assets/initrd", KernelArgs: `root=/dev/vdb say="a,b" -- init=x`},
		Disks: []types.Disk{
			{ID: "data,readonly=on", ReadOnly: true}, {ID: strings.Repeat("s", 40), Root: true},
		},
		Networks: []types.Network{{ID: "lan", Tap: "tap0", MAC: "52:54:00:12:34:56"}, {ID: "wan", Tap: "tap1"}},
		Console:  types.Console{Enabled: true, Output: "log", Type: "serial"},
	}
	silent := quickStart()
	silent.Console.Enabled, silent.Boot.KernelArgs, silent.Disks[0].ReadOnly = false, "", true
	for name, c := range map[string]struct {
		spec types.Spec
		host hostFacts
	}{
		"quickstart": {quickStart(), tcgHost},
		"everything": {everything, tcgHost},
		"silent":     {silent, hostFacts{accel: accelKVM, tscKHz: 2600000}},
	} {
		t.Run(name, func(t *testing.T) {
			args, err := arguments("web-1", c.spec, number(c.spec, 4), c.host)
			must(t, err)
			got := render(args)
			golden := filepath.Join("testdata", name+".argv")
			if *update {
				backendtest.Write(t, golden, []byte(got))
			}
			want, err := os.ReadFile(golden)
			must(t, err)
			if diff := cmp.Diff(string(want), got); diff != "" {
				t.Errorf("-golden +got:\n%s", diff)
			}
		})
	}
}

// render puts an option and its value on a line.
func render(args []string) string {
	var b strings.Builder
	for i, a := range args {
		switch {
		case i == 0:
		case strings.HasPrefix(a, "-"):
			b.WriteByte('\n')
		default:
			b.WriteByte(' ')
		}
		b.WriteString(a)
	}
	return b.String() + "\n"
}

func TestKernelArgs(t *testing.T) {
	for _, c := range []struct {
		given, want string
		change      func(*types.Spec)
	}{
		{given: "", want: "console=ttyS0 reboot=t panic=-1 tsc_early_khz=2600000 root=/dev/vda rw"},
		{given: "root=/dev/vda1", want: "console=ttyS0 reboot=t panic=-1 tsc_early_khz=2600000 root=/dev/vda1"},
		{given: " ro  quiet ", want: "console=ttyS0 reboot=t panic=-1 tsc_early_khz=2600000 root=/dev/vda ro  quiet"},
		{given: "tsc_early_khz=1 panic=5 reboot=k console=hvc0", want: "root=/dev/vda rw tsc_early_khz=1 panic=5 reboot=k console=hvc0"},
		{given: `x="panic=1 root=/dev/sda --" "reboot=k"`, want: `console=ttyS0 panic=-1 tsc_early_khz=2600000 root=/dev/vda rw x="panic=1 root=/dev/sda --" "reboot=k"`},
		{given: "a -- panic=1", want: "console=ttyS0 reboot=t panic=-1 tsc_early_khz=2600000 root=/dev/vda rw a -- panic=1"},
		{given: "q", want: "reboot=t panic=-1 tsc_early_khz=2600000 root=/dev/vda ro q", change: func(s *types.Spec) {
			s.Console.Enabled, s.Disks[0].ReadOnly = false, true
		}},
		{given: "q", want: "console=ttyS0 reboot=t panic=-1 tsc_early_khz=2600000 q", change: func(s *types.Spec) { s.Disks = nil }},
		{given: "q", want: "console=ttyS0 reboot=t panic=-1 tsc_early_khz=2600000 q", change: func(s *types.Spec) {
			s.Disks = append(s.Disks, types.Disk{ID: "other"}) // two, and none is marked
		}},
	} {
		spec := quickStart()
		spec.Boot.KernelArgs = c.given
		if c.change != nil {
			c.change(&spec)
		}
		got, err := kernelArgs(spec, tcgHost)
		if err != nil || got != c.want {
			t.Errorf("%q became\n%q, %v, want\n%q", c.given, got, err, c.want)
		}
	}
}

func TestWhatCannotBeTranslated(t *testing.T) {
	for field, change := range map[string]func(*types.Spec){
		"config.boot.kernel_args": func(s *types.Spec) { s.Boot.KernelArgs = strings.Repeat("x", 2000) },
		"config.cpu.topology": func(s *types.Spec) {
			s.CPU.Topology = &types.Topology{Sockets: 2, CoresPerSocket: 1, ThreadsPerCore: 1}
		},
		`config.cpu.features["aes"]`: func(s *types.Spec) { s.CPU.Features = map[string]string{"aes": "on,help"} },
	} {
		spec := quickStart()
		change(&spec)
		_, err := arguments("web-1", spec, number(spec, 4), tcgHost)
		wantKind(t, err, types.KindInvalid, field, "")
	}
}

func TestMACsDiffer(t *testing.T) {
	seen := map[string]bool{}
	for _, vm := range []types.VMID{"a", "b"} {
		for _, nic := range []string{"one", "two"} {
			mac := macAddress(vm, types.Network{ID: nic})
			if mac != macAddress(vm, types.Network{ID: nic}) || !strings.HasPrefix(mac, "52:54:00:") {
				t.Errorf("address %s", mac)
			}
			seen[mac] = true
		}
	}
	if len(seen) != 4 {
		t.Errorf("addresses %v", seen)
	}
}

func TestCapabilitiesRefuseByName(t *testing.T) {
	b := &Backend{}
	spec := quickStart()
	spec.CPU.Features = map[string]string{"vmx": "on", "avx": "on"}
	spec.Memory.Hotplug, spec.Memory.Backing = true, map[string]string{"hugepages": "2M"}
	spec.Boot.Options = map[string]string{"machine": "q35"}
	spec.Disks[0].Interface, spec.Disks[0].Options = "nvme", map[string]string{"cache": "none"}
	spec.Console.Type, spec.Console.Input = "virtio", "/dev/null"
	var got []string
	for _, e := range b.Capabilities().Refusals(Name, spec) {
		got = append(got, e.Field)
	}
	want := []string{
		`config.cpu.features["vmx"]`, "config.memory.hotplug_enabled", `config.memory.backing["hugepages"]`,
		`config.boot.boot_options["machine"]`, "config.storage[0].interface_type", `config.storage[0].options["cache"]`,
		"config.console.input", "config.console.console_type",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
	if refused := b.Capabilities().Refusals(Name, quickStart()); len(refused) != 0 {
		t.Errorf("the quick start is refused: %v", refused)
	}
}
