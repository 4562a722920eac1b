package types

// VMID names a VM on this host: ^[a-z0-9]([a-z0-9-]{0,62}[a-z0-9])?$, checked at the API.
type VMID string

// Spec is what the client asked for, in metald's own words. It has passed the rules of the proto; whether a
// backend can do it is for Capabilities to say.
type Spec struct {
	CPU      CPU               `json:"cpu"`
	Memory   Memory            `json:"memory"`
	Boot     Boot              `json:"boot"`
	Disks    []Disk            `json:"disks,omitempty"`
	Networks []Network         `json:"networks,omitempty"`
	Console  Console           `json:"console"`
	Metadata map[string]string `json:"metadata,omitempty"`
}

// CPU asks for virtual processors.
type CPU struct {
	Count    int               `json:"count"`
	Max      int               `json:"max,omitempty"` // 0: no more than Count
	Topology *Topology         `json:"topology,omitempty"`
	Features map[string]string `json:"features,omitempty"`
}

// Topology spreads the vCPUs over sockets, cores and threads; each is at least 1.
type Topology struct {
	Sockets        int `json:"sockets"`
	CoresPerSocket int `json:"coresPerSocket"`
	ThreadsPerCore int `json:"threadsPerCore"`
}

// Memory asks for guest memory, in bytes; SizeBytes is a multiple of 1 MiB.
type Memory struct {
	SizeBytes    int64             `json:"sizeBytes"`
	Hotplug      bool              `json:"hotplug,omitempty"`
	MaxSizeBytes int64             `json:"maxSizeBytes,omitempty"`
	Backing      map[string]string `json:"backing,omitempty"`
}

// Boot says what the guest boots. Paths are the client's; CreateRequest carries what they resolved to.
type Boot struct {
	KernelPath string            `json:"kernelPath"`
	InitrdPath string            `json:"initrdPath,omitempty"`
	KernelArgs string            `json:"kernelArgs,omitempty"`
	Options    map[string]string `json:"options,omitempty"`
}

// Disk asks for a block device. At most one is the root device; a single disk always is.
type Disk struct {
	ID        string            `json:"id"`
	Path      string            `json:"path"`
	ReadOnly  bool              `json:"readOnly,omitempty"`
	Root      bool              `json:"root,omitempty"`
	Interface string            `json:"interface,omitempty"` // "" and "virtio-blk" mean the same
	Options   map[string]string `json:"options,omitempty"`
}

// Network asks for a network interface on an existing tap device.
type Network struct {
	ID        string            `json:"id"`
	MAC       string            `json:"mac,omitempty"`
	Tap       string            `json:"tap,omitempty"`
	Interface string            `json:"interface,omitempty"` // "" and "virtio-net" mean the same
	Options   map[string]string `json:"options,omitempty"`
}

// Console says whether the guest gets a serial console, and whether metald keeps its output.
type Console struct {
	Enabled bool   `json:"enabled"`          // true where the client sent no console at all
	Output  string `json:"output,omitempty"` // "log" (also "") or "none"; never a host path
	Input   string `json:"input,omitempty"`
	Type    string `json:"type,omitempty"` // "serial" (also "") or "virtio"
	// Asked keeps whether the client sent a console block, so that GetVmInfo returns what was sent.
	Asked bool `json:"asked,omitempty"`
}

// RootDisk is the index of the disk that becomes /dev/vda and is mounted as root: the one that says so, or the only
// one. -1 if there is none.
func (s Spec) RootDisk() int {
	for i, d := range s.Disks {
		if d.Root {
			return i
		}
	}
	if len(s.Disks) == 1 {
		return 0
	}
	return -1
}

// DiskOrder lists the indexes of the disks in the order in which the guest is to find them: the root disk first, since
// Linux names virtio disks in the order in which they came.
func (s Spec) DiskOrder() []int {
	root := s.RootDisk()
	var order []int
	if root >= 0 {
		order = append(order, root)
	}
	for i := range s.Disks {
		if i != root {
			order = append(order, i)
		}
	}
	return order
}
