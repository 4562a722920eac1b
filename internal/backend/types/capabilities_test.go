package types_test

import (
	"maps"
	"slices"
	"strings"
	"testing"

	. "github.com/unkeyed/unkey/go/deploy/metald/internal/backend/types"
)

// everything asks for every field that some backend may lack.
func everything() Spec {
	return Spec{
		CPU: CPU{Count: 2, Max: 4, Topology: &Topology{Sockets: 1, CoresPerSocket: 2, ThreadsPerCore: 1},
			Features: map[string]string{"b": "on", "a": "off"}},
		Memory: Memory{SizeBytes: 128 << 20, Hotplug: true, MaxSizeBytes: 256 << 20, Backing: map[string]string{"hugepages": "on"}},
		Boot:   Boot{KernelPath: "/k", InitrdPath: "/i", KernelArgs: "console=ttyS0", Options: map[string]string{"firmware": "x"}},
		Disks: []Disk{
			{ID: "a", Path: "/a", Root: true},
			{ID: "b", Path: "/b", ReadOnly: true, Interface: "virtio-blk", Options: map[string]string{"cache": "none"}},
		},
		Networks: []Network{
			{ID: "n", Tap: "tap0", Interface: "virtio-net", Options: map[string]string{"queues": "2"}},
			{ID: "m", Tap: "tap1"},
		},
		Console:  Console{Enabled: true, Output: "log", Input: "stdin", Type: "virtio"},
		Metadata: map[string]string{"team": "a"},
	}
}

// able has room for everything and supports the fields with any value.
func able() Capabilities {
	fields := map[Field]Support{}
	for field := range lacking {
		fields[field] = Support{OK: true}
	}
	return Capabilities{MaxVCPUs: 32, MinMemoryBytes: 64 << 20, MaxDisks: 8, MaxNetworks: 4, Fields: fields}
}

// lacking is, per field that a backend may lack, where the errors about everything() point.
var lacking = map[Field][]string{
	FieldMaxVCPUs:         {"config.cpu.max_vcpu_count"},
	FieldTopology:         {"config.cpu.topology"},
	FieldFeatures:         {`config.cpu.features["a"]`, `config.cpu.features["b"]`},
	FieldHotplug:          {"config.memory.hotplug_enabled"},
	FieldMaxMemory:        {"config.memory.max_size_bytes"},
	FieldBacking:          {`config.memory.backing["hugepages"]`},
	FieldInitrd:           {"config.boot.initrd_path"},
	FieldBootOptions:      {`config.boot.boot_options["firmware"]`},
	FieldDiskInterface:    {"config.storage[1].interface_type"},
	FieldDiskOptions:      {`config.storage[1].options["cache"]`},
	FieldNetwork:          {"config.network"},
	FieldNetworkInterface: {"config.network[0].interface_type"},
	FieldNetworkOptions:   {`config.network[0].options["queues"]`},
	FieldConsoleInput:     {"config.console.input"},
	FieldConsoleType:      {"config.console.console_type"},
}

func TestRefusesNothingThatIsSupported(t *testing.T) {
	wantRefusals(t, able(), everything())
}

func TestRefusesEachFieldByName(t *testing.T) {
	for field, want := range lacking {
		t.Run(string(field), func(t *testing.T) {
			unlisted := able()
			delete(unlisted.Fields, field)
			wantRefusals(t, unlisted, everything(), want...)

			denied := able()
			denied.Fields[field] = Support{Note: "because of the moon"}
			for _, err := range wantRefusals(t, denied, everything(), want...) {
				if err.Kind != KindUnsupported {
					t.Errorf("%s: kind %d, want KindUnsupported", err, err.Kind)
				}
				for _, words := range []string{"is not supported by the backend testvmm", "because of the moon"} {
					if !strings.Contains(err.Error(), words) {
						t.Errorf("%q does not say %q", err, words)
					}
				}
			}
		})
	}
	t.Run("all", func(t *testing.T) {
		none := able()
		none.Fields = nil
		wantRefusals(t, none, everything(), slices.Concat(slices.Collect(maps.Values(lacking))...)...)
	})
}

// A field that is there and asks for nothing is not refused.
func TestRefusesOnlyWhatIsAskedFor(t *testing.T) {
	spec := Spec{
		CPU:      CPU{Count: 2, Max: 2, Features: map[string]string{}},
		Memory:   Memory{SizeBytes: 128 << 20, MaxSizeBytes: 128 << 20},
		Boot:     Boot{KernelPath: "/k", KernelArgs: "quiet"},
		Disks:    []Disk{{ID: "a", Path: "/a", ReadOnly: true, Root: true}},
		Console:  Console{Enabled: true, Output: "none", Asked: true},
		Metadata: map[string]string{"team": "a"},
	}
	none := able()
	none.Fields = nil
	wantRefusals(t, none, spec)
	spec.CPU.Max, spec.Memory.MaxSizeBytes = 0, 0
	wantRefusals(t, none, spec)
}

func TestRefusesValuesAndKeys(t *testing.T) {
	for field, support := range map[Field]Support{
		FieldFeatures:         {OK: true, Values: []string{"b"}},
		FieldBacking:          {OK: true, Values: []string{}},
		FieldBootOptions:      {OK: true, Values: []string{"other"}},
		FieldDiskInterface:    {OK: true, Values: []string{"virtio-scsi", "nvme"}},
		FieldDiskOptions:      {OK: true, Values: []string{"Cache"}},
		FieldNetworkInterface: {OK: true, Values: []string{"e1000"}},
		FieldNetworkOptions:   {OK: true, Values: []string{"queue"}},
		FieldConsoleInput:     {OK: true, Values: []string{"none"}},
		FieldConsoleType:      {OK: true, Values: []string{"serial"}},
	} {
		t.Run(string(field), func(t *testing.T) {
			c := able()
			c.Fields[field] = support
			want := lacking[field]
			if field == FieldFeatures {
				want = []string{`config.cpu.features["a"]`} // "b" is one that it takes
			}
			for _, err := range wantRefusals(t, c, everything(), want...) {
				if err.Kind != KindUnsupported || !strings.Contains(err.Error(), strings.Join(support.Values, ", ")) {
					t.Errorf("%q of kind %d: want KindUnsupported and what it takes", err, err.Kind)
				}
			}
			c.Fields[field] = Support{OK: true, Values: append(support.Values,
				"a", "b", "hugepages", "firmware", "virtio-blk", "cache", "virtio-net", "queues", "stdin", "virtio")}
			wantRefusals(t, c, everything())
		})
	}
}

func TestRefusesNumbersBeyondBounds(t *testing.T) {
	for _, tc := range []struct {
		name   string
		change func(*Capabilities, *Spec)
		want   string
		words  []string
	}{
		{"as many vCPUs as there can be", func(c *Capabilities, s *Spec) { c.MaxVCPUs = 4 }, "", nil},
		{"too many vCPUs", func(c *Capabilities, s *Spec) { s.CPU.Count, s.CPU.Max = 33, 0 }, "config.cpu.vcpu_count", []string{"33", "32"}},
		{"too many vCPUs later", func(c *Capabilities, s *Spec) { s.CPU.Max = 33 }, "config.cpu.max_vcpu_count", []string{"33", "32"}},
		{"as little memory as there can be", func(c *Capabilities, s *Spec) { s.Memory.SizeBytes = 64 << 20 }, "", nil},
		{"too little memory", func(c *Capabilities, s *Spec) { s.Memory.SizeBytes = 64<<20 - 1 }, "config.memory.size_bytes", []string{"67108863", "67108864"}},
		{"as many disks as there can be", func(c *Capabilities, s *Spec) { c.MaxDisks = 2 }, "", nil},
		{"too many disks", func(c *Capabilities, s *Spec) { c.MaxDisks = 1 }, "config.storage", []string{"2 disks", "1"}},
		{"as many interfaces as there can be", func(c *Capabilities, s *Spec) { c.MaxNetworks = 2 }, "", nil},
		{"too many interfaces", func(c *Capabilities, s *Spec) { c.MaxNetworks = 1 }, "config.network", []string{"2 interfaces", "1"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			c, spec := able(), everything()
			tc.change(&c, &spec)
			if tc.want == "" {
				wantRefusals(t, c, spec)
				return
			}
			for _, err := range wantRefusals(t, c, spec, tc.want) {
				if err.Kind != KindInvalid {
					t.Errorf("%s: kind %d, want KindInvalid", err, err.Kind)
				}
				for _, words := range append(tc.words, "testvmm") {
					if !strings.Contains(err.Error(), words) {
						t.Errorf("%q does not say %q", err, words)
					}
				}
			}
		})
	}
}

// Where interfaces are not supported at all, that is what is wrong, not how many there are.
func TestRefusesNetworksOnce(t *testing.T) {
	c := able()
	c.MaxNetworks = 0
	delete(c.Fields, FieldNetwork)
	for _, err := range wantRefusals(t, c, everything(), "config.network") {
		if err.Kind != KindUnsupported {
			t.Errorf("%s: kind %d, want KindUnsupported", err, err.Kind)
		}
	}
}

// wantRefusals wants one error for each of these fields, and no other.
func wantRefusals(t *testing.T, c Capabilities, spec Spec, want ...string) []*Error {
	t.Helper()
	errs := c.Refusals("testvmm", spec)
	var got []string
	for _, err := range errs {
		got = append(got, err.Field)
	}
	slices.Sort(got)
	slices.Sort(want)
	if !slices.Equal(got, want) {
		t.Errorf("refused %q, want %q: %v", got, want, errs)
	}
	return errs
}
