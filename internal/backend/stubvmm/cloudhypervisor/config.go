package cloudhypervisor

import (
	"fmt"

	"github.com/unkeyed/unkey/go/deploy/metald/internal/backend/stubvmm/rust"
)

// The config of a VM. Fields stand in the order in which vm.info tells them. Pointers are what may be left out.
type (
	vmConfig struct {
		_            struct{}        `serde:"open"`
		CPUs         cpusConfig      `json:"cpus" serde:"default"`
		Memory       memoryConfig    `json:"memory" serde:"default"`
		Payload      *payloadConfig  `json:"payload,omitempty"`
		Disks        []diskConfig    `json:"disks,omitempty" serde:"default"`
		Net          []netConfig     `json:"net,omitempty" serde:"default"`
		RNG          rngConfig       `json:"rng" serde:"default"`
		Balloon      *balloonConfig  `json:"balloon,omitempty"`
		Serial       serialConfig    `json:"serial" serde:"default"`
		Console      consoleConfig   `json:"console" serde:"default"`
		DebugConsole debugConfig     `json:"debug_console" serde:"default"`
		PVPanic      bool            `json:"pvpanic" serde:"default"`
		IOMMU        bool            `json:"iommu" serde:"default"`
		Watchdog     bool            `json:"watchdog" serde:"default"`
		Landlock     bool            `json:"landlock_enable" serde:"default"`
		Rules        []landlockRules `json:"landlock_rules,omitempty" serde:"default"`
	}
	cpusConfig struct {
		_              struct{}       `serde:"open"`
		Boot           uint32         `json:"boot_vcpus"`
		Max            uint32         `json:"max_vcpus"`
		Topology       *cpuTopology   `json:"topology,omitempty"`
		KVMHyperV      bool           `json:"kvm_hyperv" serde:"default"`
		MaxPhysBits    *uint8         `json:"max_phys_bits"`
		Affinity       []cpuAffinity  `json:"affinity,omitempty" serde:"default"`
		Features       cpuFeatures    `json:"features" serde:"default"`
		Nested         *bool          `json:"nested"`
		CoreScheduling coreScheduling `json:"core_scheduling" serde:"default"`
		Profile        cpuProfile     `json:"profile" serde:"default"`
	}
	cpuTopology struct {
		_              struct{} `serde:"open"`
		ThreadsPerCore uint16   `json:"threads_per_core"`
		CoresPerDie    uint16   `json:"cores_per_die"`
		DiesPerPackage uint16   `json:"dies_per_package"`
		Packages       uint16   `json:"packages"`
	}
	cpuAffinity struct {
		_        struct{}     `serde:"open"`
		VCPU     uint32       `json:"vcpu"`
		HostCPUs []rust.USize `json:"host_cpus"`
	}
	cpuFeatures struct {
		_   struct{} `serde:"open"`
		AMX bool     `json:"amx" serde:"default"`
	}
	memoryConfig struct {
		_              struct{}      `serde:"open"`
		Size           uint64        `json:"size"`
		Mergeable      bool          `json:"mergeable" serde:"default"`
		HotplugMethod  hotplugMethod `json:"hotplug_method" serde:"default"`
		HotplugSize    *uint64       `json:"hotplug_size,omitempty"`
		HotpluggedSize *uint64       `json:"hotplugged_size,omitempty"`
		Shared         bool          `json:"shared" serde:"default"`
		HugePages      bool          `json:"hugepages" serde:"default"`
		HugePageSize   *uint64       `json:"hugepage_size,omitempty"`
		Prefault       bool          `json:"prefault" serde:"default"`
		Reserve        bool          `json:"reserve" serde:"default"`
		THP            *bool         `json:"thp"`
	}
	payloadConfig struct {
		_         struct{}   `serde:"open"`
		Firmware  *rust.Path `json:"firmware,omitempty"`
		Kernel    *rust.Path `json:"kernel,omitempty"`
		Cmdline   *string    `json:"cmdline,omitempty"`
		Initramfs *rust.Path `json:"initramfs,omitempty"`
	}
	diskConfig struct {
		_               struct{}    `serde:"open"`
		ID              *string     `json:"id,omitempty"`
		PCISegment      uint16      `json:"pci_segment" serde:"default"`
		Path            *rust.Path  `json:"path,omitempty"`
		ReadOnly        bool        `json:"readonly" serde:"default"`
		Direct          bool        `json:"direct" serde:"default"`
		NumQueues       *rust.USize `json:"num_queues"`
		QueueSize       *uint16     `json:"queue_size"`
		VhostUser       bool        `json:"vhost_user" serde:"default"`
		DisableIOUring  bool        `json:"disable_io_uring" serde:"default"`
		DisableAIO      bool        `json:"disable_aio" serde:"default"`
		Serial          *string     `json:"serial,omitempty"`
		BackingFiles    bool        `json:"backing_files" serde:"default"`
		Sparse          *bool       `json:"sparse"`
		ImageType       imageType   `json:"image_type" serde:"default"`
		LockGranularity granularity `json:"lock_granularity" serde:"default"`
	}
	netConfig struct {
		_          struct{}    `serde:"open"`
		ID         *string     `json:"id,omitempty"`
		PCISegment uint16      `json:"pci_segment" serde:"default"`
		Tap        *string     `json:"tap,omitempty"`
		MAC        *macAddress `json:"mac"`
		HostMAC    *macAddress `json:"host_mac,omitempty"`
		MTU        *uint16     `json:"mtu,omitempty"`
		NumQueues  *rust.USize `json:"num_queues"`
		QueueSize  *uint16     `json:"queue_size"`
		VhostUser  bool        `json:"vhost_user" serde:"default"`
		VhostMode  vhostMode   `json:"vhost_mode" serde:"default"`
		FDs        []fdNumber  `json:"fds,omitempty" serde:"default"`
		TSO        *bool       `json:"offload_tso"`
		UFO        *bool       `json:"offload_ufo"`
		Csum       *bool       `json:"offload_csum"`
	}
	rngConfig struct {
		_          struct{}  `serde:"open"`
		ID         *string   `json:"id,omitempty"`
		PCISegment uint16    `json:"pci_segment" serde:"default"`
		Src        rust.Path `json:"src"`
	}
	balloonConfig struct {
		_                 struct{} `serde:"open"`
		ID                *string  `json:"id,omitempty"`
		PCISegment        uint16   `json:"pci_segment" serde:"default"`
		Size              uint64   `json:"size"`
		DeflateOnOOM      bool     `json:"deflate_on_oom" serde:"default"`
		FreePageReporting bool     `json:"free_page_reporting" serde:"default"`
	}
	serialConfig struct {
		_      struct{}    `serde:"open"`
		File   *rust.Path  `json:"file,omitempty"`
		Mode   consoleMode `json:"mode"`
		Socket *rust.Path  `json:"socket,omitempty"`
	}
	consoleConfig struct {
		_          struct{}    `serde:"open"`
		File       *rust.Path  `json:"file,omitempty"`
		Mode       consoleMode `json:"mode"`
		Socket     *rust.Path  `json:"socket,omitempty"`
		ID         *string     `json:"id,omitempty"`
		PCISegment uint16      `json:"pci_segment" serde:"default"`
	}
	debugConfig struct {
		_      struct{}    `serde:"open"`
		File   *rust.Path  `json:"file,omitempty"`
		Mode   consoleMode `json:"mode"`
		IOBase *uint16     `json:"iobase,omitempty"`
	}
	landlockRules struct {
		_      struct{}  `serde:"open"`
		Path   rust.Path `json:"path"`
		Access string    `json:"access"`
	}
)

// newConfig is a config of which nothing is said.
func newConfig() *vmConfig {
	c := &vmConfig{}
	c.CPUs.Boot, c.CPUs.Max = 1, 1
	c.Memory.Size = 512 << 20
	c.RNG.Src = "/dev/urandom"
	c.Serial.Mode, c.Console.Mode, c.DebugConsole.Mode = modeNull, modeTty, modeOff
	c.DebugConsole.IOBase = new(uint16)
	*c.DebugConsole.IOBase = 0xe9
	return c
}

// complete puts the defaults where nothing is said.
func (c *vmConfig) complete() {
	missing(&c.CPUs.MaxPhysBits, 46)
	missing(&c.CPUs.Nested, true)
	named(&c.CPUs.CoreScheduling, "Vm")
	named(&c.CPUs.Profile, "Host")
	named(&c.Memory.HotplugMethod, "Acpi")
	missing(&c.Memory.THP, true)
	for i := range c.Disks {
		c.Disks[i].complete()
	}
	for i := range c.Net {
		c.Net[i].complete()
	}
}

func (d *diskConfig) complete() {
	missing(&d.NumQueues, 1)
	missing(&d.QueueSize, 128)
	missing(&d.Sparse, true)
	named(&d.ImageType, imageUnknown)
	named(&d.LockGranularity, "ByteRange")
}

func (n *netConfig) complete() {
	missing(&n.NumQueues, 2)
	missing(&n.QueueSize, 256)
	missing(&n.TSO, true)
	missing(&n.UFO, true)
	missing(&n.Csum, true)
	named(&n.VhostMode, "Client")
	missing(&n.MAC, "2e:00:00:00:00:01")
	n.FDs = nil // those of a text are nobody's
}

func missing[T any](p **T, value T) {
	if *p == nil {
		*p = &value
	}
}

func named[T ~string](p *T, value T) {
	if *p == "" {
		*p = value
	}
}

// fdNumber is an open file of the process's.
type fdNumber uint32

// macAddress is written in lower case.
type macAddress string

// Parse takes six bytes of two digits each.
func (m *macAddress) Parse(s string) error {
	var b [6]byte
	n, err := fmt.Sscanf(s, "%02x:%02x:%02x:%02x:%02x:%02x", &b[0], &b[1], &b[2], &b[3], &b[4], &b[5])
	if err != nil || n != len(b) || len(s) != 17 {
		return words("The provided MAC address is invalid: parsing of " + s + " into a MAC address failed")
	}
	*m = macAddress(fmt.Sprintf("%02x:%02x:%02x:%02x:%02x:%02x", b[0], b[1], b[2], b[3], b[4], b[5]))
	return nil
}
