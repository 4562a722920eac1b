package cloudhypervisor

import (
	"crypto/sha256"
	"fmt"

	"github.com/unkeyed/unkey/go/deploy/metald/internal/backend/types"
)

const mebibyte = 1 << 20

// hotplugStep is what memory plugged by ACPI comes in (vmm/src/memory_manager.rs, hotplug_ram_region).
const hotplugStep = 128 * mebibyte

// surroundings is what a VM's config has to say of where its VMM runs. The paths are those that the VMM sees.
type surroundings struct {
	landlock bool           // whether Cloud Hypervisor locks itself in
	rules    []landlockRule // what it may use then beside what the config names
}

// plan is what makes the VM of a request. The networks are apart: they go into the config to have their taps opened by
// name, or each into a call of its own to have them sent as open files.
type plan struct {
	config   vmConfig
	networks []netConfig
}

// translate returns what makes the VM of a request. It is pure: the same request gives the same plan. The paths in req
// are those that Cloud Hypervisor sees. The spec is one that the capabilities allow; what is wrong with its values is
// said here, since Cloud Hypervisor says it only at the boot.
func translate(req types.CreateRequest, around surroundings) (plan, error) {
	cpus, err := cpusOf(req.Spec.CPU)
	if err != nil {
		return plan{}, err
	}
	memory, err := memoryOf(req.Spec.Memory)
	if err != nil {
		return plan{}, err
	}
	line, err := kernelArgs(req.Spec)
	if err != nil {
		return plan{}, err
	}
	disks, err := disksOf(req)
	if err != nil {
		return plan{}, err
	}
	networks, err := networksOf(req)
	if err != nil {
		return plan{}, err
	}
	return plan{networks: networks, config: vmConfig{
		CPUs: cpus, Memory: memory, Disks: disks,
		Payload: payloadConfig{Kernel: req.Kernel, Initramfs: req.Initrd, Cmdline: line},
		RNG:     rngConfig{ID: "rng0", Src: "/dev/urandom"},
		Serial:  serialOf(req.Spec.Console),
		// By default the guest's hvc0 is the VMM's standard output.
		Console: consoleConfig{Mode: modeOff},
		// A guest with the driver says by it that it panicked, and goes on to do what its panic= says.
		PVPanic:  true,
		Landlock: around.landlock, Rules: around.rules,
	}}, nil
}

func cpusOf(cpu types.CPU) (cpusConfig, error) {
	config := cpusConfig{Boot: cpu.Count, Max: max(cpu.Max, cpu.Count)}
	if cpu.Max != 0 && cpu.Max < cpu.Count {
		return cpusConfig{}, types.FieldErrorf(types.KindInvalid, string(types.FieldMaxVCPUs),
			"%d is less than vcpu_count, which is %d", cpu.Max, cpu.Count)
	}
	if amx, err := toggle(cpu.Features, "amx", string(types.FieldFeatures)); err != nil {
		return cpusConfig{}, err
	} else if amx {
		config.Features = &featuresConfig{AMX: true}
	}
	var err error
	config.Topology, err = topologyOf(cpu.Topology, config.Max)
	return config, err
}

func topologyOf(t *types.Topology, vcpus int) (*topologyConfig, error) {
	if t == nil {
		return nil, nil
	}
	product := int64(t.Sockets) * int64(t.CoresPerSocket) * int64(t.ThreadsPerCore)
	switch {
	case product != int64(vcpus):
		return nil, types.FieldErrorf(types.KindInvalid, string(types.FieldTopology),
			"%d sockets of %d cores of %d threads are %d vCPUs, and the VM can have %d: max_vcpu_count, or vcpu_count where that is 0",
			t.Sockets, t.CoresPerSocket, t.ThreadsPerCore, product, vcpus)
	case t.ThreadsPerCore > 2:
		return nil, types.FieldErrorf(types.KindInvalid, string(types.FieldTopology)+".threads_per_core",
			"%d threads are more than the 2 that a core can have", t.ThreadsPerCore)
	}
	return &topologyConfig{
		ThreadsPerCore: t.ThreadsPerCore, CoresPerDie: t.CoresPerSocket, DiesPerPackage: 1, Packages: t.Sockets,
	}, nil
}

// serialOf has the guest's serial port on the VMM's standard output, which is a FIFO: Cloud Hypervisor writes each byte as
// it comes (devices/src/legacy/serial.rs), and FIFO and bytes outlive any reader. Its mode Socket is worse: a client that
// dies with bytes unread ends the thread that serves the socket, for good (vmm/src/serial_manager.rs), the end of a burst
// stays in the VMM, and before version 53 a client that does not read stops the guest. A byte that finds the FIFO full is
// lost, and the guest's driver may then wait for its next byte to go on. A guest without a console finds no port.
func serialOf(console types.Console) consoleConfig {
	if !console.Enabled {
		return consoleConfig{Mode: modeOff}
	}
	return consoleConfig{Mode: modeTty}
}

// disksOf puts the root disk first: Linux names virtio disks in the order in which they came.
func disksOf(req types.CreateRequest) ([]diskConfig, error) {
	var disks []diskConfig
	for _, i := range req.Spec.DiskOrder() {
		d := req.Spec.Disks[i]
		direct, err := toggle(d.Options, "direct", fmt.Sprintf("config.storage[%d].options", i))
		if err != nil {
			return nil, err
		}
		disks = append(disks, diskConfig{
			ID: diskID(i), Path: req.Disks[i], ReadOnly: d.ReadOnly, Direct: direct, Serial: serialNumber(d.ID),
			// What is not told is guessed from the disk's content, which is the guest's.
			ImageType: "Raw",
		})
	}
	return disks, nil
}

func networksOf(req types.CreateRequest) ([]netConfig, error) {
	var networks []netConfig
	for i, n := range req.Spec.Networks {
		if n.Tap == "" {
			// Cloud Hypervisor would make a device of its own, that nobody asked for.
			return nil, types.FieldErrorf(types.KindInvalid, fmt.Sprintf("config.network[%d].tap_device", i), "Cloud Hypervisor needs a tap device")
		}
		nic := netConfig{ID: networkID(i), Tap: n.Tap, MAC: macAddress(req.ID, n)}
		if value, asked := n.Options["offload"]; asked {
			offload, err := toggle(n.Options, "offload", fmt.Sprintf("config.network[%d].options", i))
			if err != nil {
				return nil, err
			}
			if value == "off" {
				nic.TSO, nic.UFO, nic.Csum = &offload, &offload, &offload
			}
		}
		networks = append(networks, nic)
	}
	return networks, nil
}

// toggle is the value of an option that is on or off, and off where it is not there. The error names it in field.
func toggle(options map[string]string, key, field string) (bool, error) {
	value, asked := options[key]
	if asked && value != "on" && value != "off" {
		return false, types.FieldErrorf(types.KindInvalid, fmt.Sprintf("%s[%q]", field, key), "%q is neither on nor off", value)
	}
	return value == "on", nil
}

// diskID and networkID name a device to Cloud Hypervisor, and its counters use the names. The client's own ids may be
// the same for a disk and an interface, and may begin as those that Cloud Hypervisor keeps for itself.
func diskID(i int) string    { return fmt.Sprintf("disk%d", i) }
func networkID(i int) string { return fmt.Sprintf("net%d", i) }

// serialNumber is a disk's id as the guest reads it in /sys/block/*/serial: virtio has room for twenty bytes.
func serialNumber(id string) string { return id[:min(len(id), 20)] }

// macAddress is the one asked for, or one derived from the names of the VM and the interface, so that it stays the
// same over reboots and differs between VMs. The second bit of its first byte says that nobody else assigned it.
func macAddress(id types.VMID, n types.Network) string {
	if n.MAC != "" {
		return n.MAC
	}
	sum := sha256.Sum256([]byte(string(id) + "\x00" + n.ID))
	return fmt.Sprintf("02:c8:%02x:%02x:%02x:%02x", sum[0], sum[1], sum[2], sum[3])
}
