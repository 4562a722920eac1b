package firecracker

import (
	"crypto/sha256"
	"fmt"

	"github.com/unkeyed/unkey/go/deploy/metald/internal/backend/types"
)

// mebibyte is the unit of Firecracker's memory size.
const mebibyte = 1 << 20

// sinks are the FIFOs that Firecracker writes to, by the paths that it sees; "" for none.
type sinks struct{ console, metrics string }

// translate returns the calls that make the VM of a request, in the order in which they are to be made. It is pure: the
// same request gives the same calls. The paths in req are those that Firecracker sees, which in a jail are not the
// host's. The spec is one that the capabilities allow.
func translate(req types.CreateRequest, out sinks) ([]call, error) {
	machine, err := machineOf(req.Spec)
	if err != nil {
		return nil, err
	}
	args, err := kernelArgs(req.Spec)
	if err != nil {
		return nil, err
	}
	networks, err := networksOf(req)
	if err != nil {
		return nil, err
	}
	var calls []call
	if out.console != "" {
		// It is opened without blocking, so that a guest is never held up where nobody reads.
		calls = append(calls, putSerial(serialDevice{SerialOutPath: out.console}))
	}
	if out.metrics != "" {
		calls = append(calls, putMetrics(metricsConfig{MetricsPath: out.metrics}))
	}
	boot := bootSource{KernelImagePath: req.Kernel, InitrdPath: req.Initrd, BootArgs: args.line}
	calls = append(calls,
		putMachineConfig(machine).about(types.KindInvalid, "config"),
		putBootSource(boot).about(types.KindInvalid, "config.boot"))
	calls = append(calls, drivesOf(req, args.rootByVMM)...)
	calls = append(calls, networks...)
	return append(calls, putEntropy(entropyDevice{})), nil
}

func machineOf(spec types.Spec) (machineConfig, error) {
	if rest := spec.Memory.SizeBytes % mebibyte; rest != 0 {
		return machineConfig{}, types.FieldErrorf(types.KindInvalid, "config.memory.size_bytes",
			"%d bytes are no whole number of MiB: %d are left over", spec.Memory.SizeBytes, rest)
	}
	return machineConfig{VCPUCount: spec.CPU.Count, MemSizeMiB: spec.Memory.SizeBytes / mebibyte}, nil
}

// drivesOf puts the root disk first: Linux names virtio disks in the order in which they came.
func drivesOf(req types.CreateRequest, rootByVMM bool) []call {
	var calls []call
	root := req.Spec.RootDisk()
	for _, i := range req.Spec.DiskOrder() {
		d := drive{
			DriveID: driveID(i), PathOnHost: req.Disks[i],
			IsRootDevice: rootByVMM && i == root, IsReadOnly: req.Spec.Disks[i].ReadOnly,
		}
		if !d.IsReadOnly {
			// Firecracker's default offers the guest no flush: what it wrote and synced would not outlive the host.
			d.CacheType = "Writeback"
		}
		calls = append(calls, putDrive(d).about(types.KindInvalid, fmt.Sprintf("config.storage[%d].path", i)))
	}
	return calls
}

func networksOf(req types.CreateRequest) ([]call, error) {
	var calls []call
	for i, n := range req.Spec.Networks {
		field := fmt.Sprintf("config.network[%d].tap_device", i)
		if n.Tap == "" {
			return nil, types.FieldErrorf(types.KindInvalid, field, "Firecracker needs a tap device")
		}
		nic := networkInterface{IfaceID: networkID(i), HostDevName: n.Tap, GuestMAC: macAddress(req.ID, n)}
		calls = append(calls, putNetwork(nic).about(types.KindPrecondition, field))
	}
	return calls, nil
}

// driveID and networkID name a device to Firecracker, and its metrics use the names. The client's own ids may have
// hyphens, which Firecracker doesn't take.
func driveID(i int) string   { return fmt.Sprintf("disk%d", i) }
func networkID(i int) string { return fmt.Sprintf("net%d", i) }

// macAddress is the one asked for, or one derived from the names of the VM and the interface, so that it stays the
// same over reboots and differs between VMs. The second bit of its first byte says that nobody else assigned it.
func macAddress(id types.VMID, n types.Network) string {
	if n.MAC != "" {
		return n.MAC
	}
	sum := sha256.Sum256([]byte(string(id) + "\x00" + n.ID))
	return fmt.Sprintf("02:fc:%02x:%02x:%02x:%02x", sum[0], sum[1], sum[2], sum[3])
}
