package cloudhypervisor

// The body of vm.create, as vmm/src/vm_config.rs of 53.0 has it; sizes are in bytes. Fields that metald leaves to Cloud
// Hypervisor's default are not there.
type (
	vmConfig struct {
		CPUs     cpusConfig     `json:"cpus"`
		Memory   memoryConfig   `json:"memory"`
		Payload  payloadConfig  `json:"payload"`
		Disks    []diskConfig   `json:"disks,omitempty"`
		Net      []netConfig    `json:"net,omitempty"`
		RNG      rngConfig      `json:"rng"`
		Serial   consoleConfig  `json:"serial"`
		Console  consoleConfig  `json:"console"`
		PVPanic  bool           `json:"pvpanic"`
		Landlock bool           `json:"landlock_enable,omitempty"`
		Rules    []landlockRule `json:"landlock_rules,omitempty"`
	}
	cpusConfig struct {
		Boot     int             `json:"boot_vcpus"`
		Max      int             `json:"max_vcpus"`
		Topology *topologyConfig `json:"topology,omitempty"`
		Features *featuresConfig `json:"features,omitempty"`
	}
	topologyConfig struct {
		ThreadsPerCore int `json:"threads_per_core"`
		CoresPerDie    int `json:"cores_per_die"`
		DiesPerPackage int `json:"dies_per_package"`
		Packages       int `json:"packages"`
	}
	featuresConfig struct {
		AMX bool `json:"amx"`
	}
	memoryConfig struct {
		Size          int64  `json:"size"`
		HotplugSize   int64  `json:"hotplug_size,omitempty"`
		HotplugMethod string `json:"hotplug_method,omitempty"`
		Shared        bool   `json:"shared,omitempty"`
		HugePages     bool   `json:"hugepages,omitempty"`
		HugePageSize  int64  `json:"hugepage_size,omitempty"`
	}
	payloadConfig struct {
		Kernel    string `json:"kernel"`
		Initramfs string `json:"initramfs,omitempty"`
		Cmdline   string `json:"cmdline"`
	}
	diskConfig struct {
		ID        string `json:"id"`
		Path      string `json:"path"`
		ReadOnly  bool   `json:"readonly"`
		Direct    bool   `json:"direct,omitempty"`
		ImageType string `json:"image_type"`
		Serial    string `json:"serial"`
	}
	netConfig struct {
		ID   string `json:"id"`
		Tap  string `json:"tap,omitempty"` // "" where open files are sent with the call
		MAC  string `json:"mac"`
		TSO  *bool  `json:"offload_tso,omitempty"`
		UFO  *bool  `json:"offload_ufo,omitempty"`
		Csum *bool  `json:"offload_csum,omitempty"`
	}
	rngConfig struct {
		ID  string `json:"id"`
		Src string `json:"src"`
	}
	consoleConfig struct {
		Mode string `json:"mode"`
	}
	// landlockRule lets Cloud Hypervisor use what is at and below Path beside what the config names: "r", "w" or "rw".
	landlockRule struct {
		Path   string `json:"path"`
		Access string `json:"access"`
	}
)

// The modes of consoles that metald uses.
const (
	modeOff = "Off"
	modeTty = "Tty"
)

// overFiles is the interface on taps that are sent as open files: one that is named is opened by its name.
func (n netConfig) overFiles() netConfig {
	n.Tap = ""
	return n
}
