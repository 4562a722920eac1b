package conformance

import (
	"fmt"
	"strings"
	"testing"

	"github.com/unkeyed/unkey/go/deploy/metald/internal/backend/types"
)

func boundSentences() []sentence {
	return []sentence{
		{"each field that the capabilities deny is refused by its name, and no other", nil, eachDenial},
		{"each number is taken up to its bound, and refused by its field beyond it", nil, eachBound},
		{"a VM of the least memory can be created", nil, leastMemory},
	}
}

// strange is a value that no backend knows.
const strange = "no-such-value"

// asks has a request for each field whose support differs, and for that field alone.
func asks(spec types.Spec) map[types.Field]types.Spec {
	options := map[string]string{strange: "on"}
	all := map[types.Field]types.Spec{}
	ask := func(f types.Field, change func(*types.Spec)) {
		asked := spec
		asked.Disks = append([]types.Disk{}, spec.Disks...)
		change(&asked)
		all[f] = asked
	}
	ask(types.FieldMaxVCPUs, func(s *types.Spec) { s.CPU.Max = s.CPU.Count + 1 })
	ask(types.FieldTopology, func(s *types.Spec) {
		s.CPU.Topology = &types.Topology{Sockets: 1, CoresPerSocket: 1, ThreadsPerCore: 1}
	})
	ask(types.FieldFeatures, func(s *types.Spec) { s.CPU.Features = options })
	ask(types.FieldHotplug, func(s *types.Spec) { s.Memory.Hotplug = true })
	ask(types.FieldMaxMemory, func(s *types.Spec) { s.Memory.MaxSizeBytes = 2 * s.Memory.SizeBytes })
	ask(types.FieldBacking, func(s *types.Spec) { s.Memory.Backing = options })
	ask(types.FieldInitrd, func(s *types.Spec) { s.Boot.InitrdPath = s.Boot.KernelPath })
	ask(types.FieldBootOptions, func(s *types.Spec) { s.Boot.Options = options })
	ask(types.FieldDiskInterface, func(s *types.Spec) { s.Disks = []types.Disk{{ID: "d", Interface: strange}} })
	ask(types.FieldDiskOptions, func(s *types.Spec) { s.Disks = []types.Disk{{ID: "d", Options: options}} })
	ask(types.FieldNetwork, func(s *types.Spec) { s.Networks = []types.Network{{ID: "n", Tap: "tap0"}} })
	ask(types.FieldNetworkInterface, func(s *types.Spec) { s.Networks = []types.Network{{ID: "n", Tap: "tap0", Interface: strange}} })
	ask(types.FieldNetworkOptions, func(s *types.Spec) { s.Networks = []types.Network{{ID: "n", Tap: "tap0", Options: options}} })
	ask(types.FieldConsoleInput, func(s *types.Spec) { s.Console.Input = strange })
	ask(types.FieldConsoleType, func(s *types.Spec) { s.Console.Type = strange })
	return all
}

// plainly are fields that are asked for by being there; the others by a value or a key.
var plainly = map[types.Field]bool{
	types.FieldMaxVCPUs: true, types.FieldTopology: true, types.FieldHotplug: true, types.FieldMaxMemory: true,
	types.FieldInitrd: true, types.FieldNetwork: true,
}

func eachDenial(t *testing.T, s *site) {
	caps, asked := s.backend.Capabilities(), asks(s.spec())
	for f := range caps.Fields {
		if _, ok := asked[f]; !ok {
			t.Errorf("the capabilities speak of %s, which is no field that differs", f)
		}
	}
	for _, f := range types.Fields() {
		spec, ok := asked[f]
		if !ok {
			t.Errorf("nobody asks for %s", f)
			continue
		}
		support := caps.Fields[f]
		want := !support.OK || !plainly[f] && support.Values != nil
		var refused []string
		for _, refusal := range caps.Refusals(s.backend.Name(), spec) {
			if refusal.Kind != types.KindUnsupported || !strings.Contains(refusal.Error(), s.backend.Name()) {
				t.Errorf("%s is refused with %v", f, refusal)
			}
			if path := withoutIndex(refusal.Field); path != string(types.FieldNetwork) || f == types.FieldNetwork {
				refused = append(refused, path)
			}
		}
		if got := fmt.Sprint(refused); want && got != fmt.Sprintf("[%s]", f) || !want && len(refused) > 0 {
			t.Errorf("%s: supported %+v, refused %s", f, support, got)
		}
	}
}

// withoutIndex is the path of a field in the terms of types.Field: a[0].b["k"] is a.b.
func withoutIndex(path string) string {
	var b strings.Builder
	for path != "" {
		head, rest, _ := strings.Cut(path, "[")
		b.WriteString(head)
		_, path, _ = strings.Cut(rest, "]")
	}
	return b.String()
}

func eachBound(t *testing.T, s *site) {
	caps := s.backend.Capabilities()
	disks := func(n int) (all []types.Disk) {
		for i := range n {
			all = append(all, types.Disk{ID: fmt.Sprintf("d%d", i)})
		}
		return all
	}
	networks := func(n int) (all []types.Network) {
		for i := range n {
			all = append(all, types.Network{ID: fmt.Sprintf("n%d", i), Tap: "tap0"})
		}
		return all
	}
	for field, at := range map[string]func(spec *types.Spec, beyond int){
		"config.cpu.vcpu_count":    func(spec *types.Spec, beyond int) { spec.CPU.Count = caps.MaxVCPUs + beyond },
		"config.memory.size_bytes": func(spec *types.Spec, beyond int) { spec.Memory.SizeBytes = caps.MinMemoryBytes - int64(beyond) },
		"config.storage":           func(spec *types.Spec, beyond int) { spec.Disks = disks(caps.MaxDisks + beyond) },
		"config.network":           func(spec *types.Spec, beyond int) { spec.Networks = networks(caps.MaxNetworks + beyond) },
	} {
		if field == "config.network" && !caps.Fields[types.FieldNetwork].OK {
			continue
		}
		for beyond := range 2 {
			spec := s.spec()
			at(&spec, beyond)
			refused := caps.Refusals(s.backend.Name(), spec)
			if len(refused) != beyond {
				t.Errorf("%s, %d beyond its bound: %v", field, beyond, refused)
			}
			for _, refusal := range refused {
				if refusal.Kind != types.KindInvalid || refusal.Field != field {
					t.Errorf("%s beyond its bound: %+v", field, refusal)
				}
			}
		}
	}
}

func leastMemory(t *testing.T, s *site) {
	spec := s.spec()
	spec.Memory.SizeBytes = s.backend.Capabilities().MinMemoryBytes
	if info := s.create("a", spec); info.Spec.Memory.SizeBytes != spec.Memory.SizeBytes {
		t.Errorf("created %+v", info)
	}
}
