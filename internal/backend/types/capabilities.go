package types

import (
	"fmt"
	"maps"
	"slices"
	"strings"
)

// Field is the path of a config field in the proto, without indexes: config.storage.interface_type.
type Field string

// The fields whose support differs between backends. Every other field is supported by all.
const (
	FieldMaxVCPUs         Field = "config.cpu.max_vcpu_count"
	FieldTopology         Field = "config.cpu.topology"
	FieldFeatures         Field = "config.cpu.features"
	FieldHotplug          Field = "config.memory.hotplug_enabled"
	FieldMaxMemory        Field = "config.memory.max_size_bytes"
	FieldBacking          Field = "config.memory.backing"
	FieldInitrd           Field = "config.boot.initrd_path"
	FieldBootOptions      Field = "config.boot.boot_options"
	FieldDiskInterface    Field = "config.storage.interface_type"
	FieldDiskOptions      Field = "config.storage.options"
	FieldNetwork          Field = "config.network"
	FieldNetworkInterface Field = "config.network.interface_type"
	FieldNetworkOptions   Field = "config.network.options"
	FieldConsoleInput     Field = "config.console.input"
	FieldConsoleType      Field = "config.console.console_type"
)

// Fields lists the fields above in their order, for the docs.
func Fields() []Field {
	return []Field{
		FieldMaxVCPUs, FieldTopology, FieldFeatures, FieldHotplug, FieldMaxMemory, FieldBacking, FieldInitrd, FieldBootOptions,
		FieldDiskInterface, FieldDiskOptions, FieldNetwork, FieldNetworkInterface, FieldNetworkOptions, FieldConsoleInput,
		FieldConsoleType,
	}
}

// Support says how far a backend supports a field.
type Support struct {
	OK     bool
	Values []string // where OK: the values, or the map keys, it takes; nil takes any
	Note   string   // for people: why not, or what is special
}

// Capabilities is what a backend can do with a Spec, as data: the API refuses by it and the docs print it.
type Capabilities struct {
	MaxVCPUs       int
	MinMemoryBytes int64
	MaxDisks       int
	MaxNetworks    int
	Fields         map[Field]Support // a field that is not listed is not supported
}

// Refusals returns an error for everything in spec that the capabilities deny, each naming its field:
// KindUnsupported for what this backend cannot do, KindInvalid for a number beyond its bounds.
func (c Capabilities) Refusals(backend string, spec Spec) []*Error {
	r := refusals{caps: c, backend: backend}
	if spec.CPU.Count > c.MaxVCPUs {
		r.invalid("config.cpu.vcpu_count", "%d vCPUs are more than the %d that %s can have", spec.CPU.Count, c.MaxVCPUs, backend)
	}
	if spec.CPU.Max > c.MaxVCPUs && c.Fields[FieldMaxVCPUs].OK {
		r.invalid(string(FieldMaxVCPUs), "%d vCPUs are more than the %d that %s can have", spec.CPU.Max, c.MaxVCPUs, backend)
	}
	if spec.Memory.SizeBytes < c.MinMemoryBytes {
		r.invalid("config.memory.size_bytes", "%d bytes are less than the %d that a guest needs on %s", spec.Memory.SizeBytes, c.MinMemoryBytes, backend)
	}
	if n := len(spec.Disks); n > c.MaxDisks {
		r.invalid("config.storage", "%d disks are more than the %d that %s can attach", n, c.MaxDisks, backend)
	}
	if n := len(spec.Networks); n > c.MaxNetworks && c.Fields[FieldNetwork].OK {
		r.invalid("config.network", "%d interfaces are more than the %d that %s can attach", n, c.MaxNetworks, backend)
	}
	// A maximum equal to what is there from the start asks for nothing.
	r.field(FieldMaxVCPUs, spec.CPU.Max > spec.CPU.Count)
	r.field(FieldTopology, spec.CPU.Topology != nil)
	r.keys(FieldFeatures, string(FieldFeatures), spec.CPU.Features)
	r.field(FieldHotplug, spec.Memory.Hotplug)
	r.field(FieldMaxMemory, spec.Memory.MaxSizeBytes > spec.Memory.SizeBytes)
	r.keys(FieldBacking, string(FieldBacking), spec.Memory.Backing)
	r.field(FieldInitrd, spec.Boot.InitrdPath != "")
	r.keys(FieldBootOptions, string(FieldBootOptions), spec.Boot.Options)
	for i, d := range spec.Disks {
		r.value(FieldDiskInterface, fmt.Sprintf("config.storage[%d].interface_type", i), d.Interface)
		r.keys(FieldDiskOptions, fmt.Sprintf("config.storage[%d].options", i), d.Options)
	}
	r.field(FieldNetwork, len(spec.Networks) > 0)
	for i, n := range spec.Networks {
		r.value(FieldNetworkInterface, fmt.Sprintf("config.network[%d].interface_type", i), n.Interface)
		r.keys(FieldNetworkOptions, fmt.Sprintf("config.network[%d].options", i), n.Options)
	}
	r.value(FieldConsoleInput, string(FieldConsoleInput), spec.Console.Input)
	r.value(FieldConsoleType, string(FieldConsoleType), spec.Console.Type)
	return r.errs
}

type refusals struct {
	caps    Capabilities
	backend string
	errs    []*Error
}

func (r *refusals) invalid(field, format string, args ...any) {
	r.errs = append(r.errs, FieldErrorf(KindInvalid, field, format, args...))
}

func (r *refusals) unsupported(path, what string, s Support) {
	msg := fmt.Sprintf("%s is not supported by the backend %s", what, r.backend)
	if s.Note != "" {
		msg += ": " + s.Note
	}
	if len(s.Values) > 0 {
		msg += "; it takes " + strings.Join(s.Values, ", ")
	}
	r.errs = append(r.errs, FieldErrorf(KindUnsupported, path, "%s", msg))
}

func (r *refusals) field(f Field, asked bool) {
	if s := r.caps.Fields[f]; asked && !s.OK {
		r.unsupported(string(f), "this field", s)
	}
}

func (r *refusals) value(f Field, path, value string) {
	if value == "" {
		return
	}
	s := r.caps.Fields[f]
	if !s.OK || (s.Values != nil && !slices.Contains(s.Values, value)) {
		r.unsupported(path, fmt.Sprintf("%q", value), s)
	}
}

func (r *refusals) keys(f Field, path string, m map[string]string) {
	s := r.caps.Fields[f]
	for _, key := range slices.Sorted(maps.Keys(m)) {
		if !s.OK || (s.Values != nil && !slices.Contains(s.Values, key)) {
			r.unsupported(fmt.Sprintf("%s[%q]", path, key), "this key", s)
		}
	}
}
