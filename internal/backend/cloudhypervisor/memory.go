package cloudhypervisor

import (
	"fmt"

	"github.com/unkeyed/unkey/go/deploy/metald/internal/backend/types"
)

// The options of memory.backing.
const (
	backingShared       = "shared"        // on or off: whether other processes can share the memory
	backingHugePages    = "hugepages"     // on or off: whether it is of the host's huge pages
	backingHugePageSize = "hugepage_size" // of which size; without it, of the host's default
)

// hugePageSizes are the sizes that x86 has.
var hugePageSizes = map[string]int64{"2M": 2 * mebibyte, "1G": 1024 * mebibyte}

// hotplugMethod is ACPI's, which all guests know. The other, virtio-mem, can also take memory back, but needs a driver.
const hotplugMethod = "Acpi"

func memoryOf(m types.Memory) (memoryConfig, error) {
	config := memoryConfig{Size: m.SizeBytes}
	field := string(types.FieldBacking)
	var err error
	if config.Shared, err = toggle(m.Backing, backingShared, field); err != nil {
		return memoryConfig{}, err
	}
	if config.HugePages, err = toggle(m.Backing, backingHugePages, field); err != nil {
		return memoryConfig{}, err
	}
	if config.HugePageSize, err = hugePageSize(m.Backing, config.HugePages); err != nil {
		return memoryConfig{}, err
	}
	if config.HotplugSize, err = hotplugSize(m, config.HugePageSize); err != nil {
		return memoryConfig{}, err
	}
	if config.HotplugSize > 0 {
		config.HotplugMethod = hotplugMethod
	}
	return config, wholePages(config)
}

// hugePageSize is 0 for the host's default.
func hugePageSize(backing map[string]string, hugePages bool) (int64, error) {
	value, asked := backing[backingHugePageSize]
	if !asked {
		return 0, nil
	}
	field := fmt.Sprintf("%s[%q]", types.FieldBacking, backingHugePageSize)
	size, ok := hugePageSizes[value]
	switch {
	case !ok:
		return 0, types.FieldErrorf(types.KindInvalid, field, "%q is neither 2M nor 1G", value)
	case !hugePages:
		return 0, types.FieldErrorf(types.KindInvalid, field, "there are no huge pages without %s=on", backingHugePages)
	}
	return size, nil
}

// hotplugSize is how much memory can be plugged beside what the guest starts with. The two fields that ask for it have
// to agree: one without the other would be dropped.
func hotplugSize(m types.Memory, hugePage int64) (int64, error) {
	more := m.MaxSizeBytes - m.SizeBytes
	step := max(hotplugStep, hugePage)
	switch {
	case m.MaxSizeBytes != 0 && more < 0:
		return 0, types.FieldErrorf(types.KindInvalid, string(types.FieldMaxMemory), "%d is less than size_bytes, which is %d", m.MaxSizeBytes, m.SizeBytes)
	case !m.Hotplug && more > 0:
		return 0, types.FieldErrorf(types.KindInvalid, string(types.FieldMaxMemory), "it is more than size_bytes, and hotplug_enabled is false: set it to true, or leave this out")
	case !m.Hotplug:
		return 0, nil
	case more <= 0:
		return 0, types.FieldErrorf(types.KindInvalid, string(types.FieldHotplug), "nothing can be plugged: max_size_bytes must be more than size_bytes")
	case more%step != 0:
		return 0, types.FieldErrorf(types.KindInvalid, string(types.FieldMaxMemory), "it is %d bytes more than size_bytes, and memory is plugged in steps of %d MiB", more, step/mebibyte)
	}
	return more, nil
}

// wholePages says what is wrong where the guest's memory is no whole number of the huge pages that are asked for. Of the
// host's default only that it is 2 MiB or more is known.
func wholePages(config memoryConfig) error {
	page := config.HugePageSize
	if config.HugePages && page == 0 {
		page = hugePageSizes["2M"]
	}
	if page == 0 || config.Size%page == 0 {
		return nil
	}
	return types.FieldErrorf(types.KindInvalid, "config.memory.size_bytes", "%d bytes are no whole number of huge pages of %d MiB", config.Size, page/mebibyte)
}

// backingKeys lists the options, for the capabilities.
func backingKeys() []string {
	return []string{backingShared, backingHugePages, backingHugePageSize}
}

const backingNote = "shared and hugepages are on or off, hugepage_size is 2M or 1G"
