package qemu

import (
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"strconv"
	"strings"

	"github.com/unkeyed/unkey/go/deploy/metald/internal/backend/types"
)

// hostFacts is what the command line needs to know of the host.
type hostFacts struct {
	accel  string // accelKVM or accelTCG
	tscKHz int    // rate of the host's time stamp counter; 0 if it isn't known
}

// tcgCache is the size of TCG's cache of translated code in MiB. The default is a quarter of the guest's memory and
// more; below 32 boots become slower.
const tcgCache = 32

// sandbox denies QEMU the system calls that a microvm has no use for: a guest that takes QEMU over cannot start
// programs, change users or raise its limits.
const sandbox = "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny"

// inherited says which number each open file has in QEMU, and is the one place that fixes their order.
type inherited struct {
	control, stats, console, kernel, initrd int // -1 for what there is none of
	disks, taps                             []int
}

// number hands out the numbers from first on.
func number(spec types.Spec, first int) inherited {
	next := func(want bool) int {
		if !want {
			return -1
		}
		first++
		return first - 1
	}
	in := inherited{
		control: next(true), stats: next(true), console: next(spec.Console.Enabled),
		kernel: next(true), initrd: next(spec.Boot.InitrdPath != ""),
	}
	for range spec.Disks {
		in.disks = append(in.disks, next(true))
	}
	for range spec.Networks {
		in.taps = append(in.taps, next(true))
	}
	return in
}

// arguments is QEMU's whole command line for a VM. It is pure: the same request and host give the same arguments.
// What comes from the client stands in JSON, in an argument of its own, or has a form that the API checked.
func arguments(id types.VMID, spec types.Spec, in inherited, h hostFacts) ([]string, error) {
	kernelLine, err := kernelArgs(spec, h)
	if err != nil {
		return nil, err
	}
	cpu, err := cpuModel(spec.CPU, h)
	if err != nil {
		return nil, err
	}
	smp, err := smpValue(spec.CPU)
	if err != nil {
		return nil, err
	}
	a := argv{}
	a.add("-name", "guest="+escape(string(id))+",debug-threads=on")
	a.add("-machine", "microvm,acpi=on,rtc=on")
	a.add("-accel", accelValue(h.accel))
	a.add("-cpu", cpu)
	a.add("-smp", smp)
	a.add("-m", strconv.FormatInt(spec.Memory.SizeBytes>>20, 10)+"M")
	a.add("-nodefaults").add("-no-user-config").add("-display", "none")
	a.add("-no-reboot").add("-S")
	a.add("-sandbox", sandbox)
	a.monitor("control", in.control)
	a.monitor("stats", in.stats)
	a.console(in.console)
	a.add("-kernel", fmt.Sprintf("/proc/self/fd/%d", in.kernel))
	if in.initrd >= 0 {
		a.add("-initrd", fmt.Sprintf("/proc/self/fd/%d", in.initrd))
	}
	a.add("-append", kernelLine)
	for _, i := range spec.DiskOrder() {
		a.disk(i, in.disks[i], spec.Disks[i])
	}
	for i, n := range spec.Networks {
		a.network(i, in.taps[i], macAddress(id, n))
	}
	a.object(rngObject{QOMType: "rng-random", ID: "rng0", Filename: "/dev/urandom"})
	a.device(device{Driver: "virtio-rng-device", ID: "random0", RNG: "rng0"})
	a.device(device{Driver: "virtio-balloon-device", ID: "balloon0"})
	// Without a keyboard controller reboot=k has nothing to pull, and some guests hang at their end instead.
	a.device(device{Driver: "i8042", ID: "keyboard0"})
	// A guest with the driver says by it that it panicked, and goes on to do what its panic= says.
	a.device(device{Driver: "pvpanic", ID: "panic0"})
	// A guest that ends leaves QEMU waiting, and its disks' counters with it, until it is told to quit.
	a.add("-action", "panic=none,shutdown=pause")
	return a, nil
}

// argv is a command line in the making.
type argv []string

func (a *argv) add(args ...string) *argv {
	*a = append(*a, args...)
	return a
}

func (a *argv) json(option string, value any) {
	b, err := json.Marshal(value)
	if err != nil {
		panic(err) // structs of strings and booleans
	}
	a.add(option, string(b))
}

func (a *argv) object(o rngObject) { a.json("-object", o) }
func (a *argv) device(d device)    { a.json("-device", d) }

// monitor gives QEMU a QMP monitor on a listening socket that it inherits.
func (a *argv) monitor(id string, fd int) {
	a.add("-chardev", fmt.Sprintf("socket,id=%s,fd=%d,server=on,wait=off", id, fd))
	a.add("-mon", fmt.Sprintf("chardev=%s,mode=control", id))
}

func (a *argv) console(fd int) {
	if fd < 0 {
		a.add("-serial", "none")
		return
	}
	a.add("-chardev", fmt.Sprintf("socket,id=console,fd=%d,server=on,wait=off", fd))
	a.add("-serial", "chardev:console")
}

// disk attaches an open file. QEMU reopens what it has been given in a set of descriptors, so the file's path and
// permissions don't matter to it; it locks the file against other QEMUs.
func (a *argv) disk(i, fd int, d types.Disk) {
	set := i + 1
	file, raw := fmt.Sprintf("file%d", i), nodeName(i)
	a.add("-add-fd", fmt.Sprintf("set=%d,fd=%d", set, fd))
	a.json("-blockdev", blockdev{Driver: "file", Node: file, Filename: fmt.Sprintf("/dev/fdset/%d", set), ReadOnly: d.ReadOnly})
	a.json("-blockdev", blockdev{Driver: "raw", Node: raw, File: file, ReadOnly: d.ReadOnly})
	a.device(device{Driver: "virtio-blk-device", ID: fmt.Sprintf("vd%d", i), Drive: raw, Serial: serial(d.ID)})
}

func (a *argv) network(i, fd int, mac string) {
	a.add("-netdev", fmt.Sprintf("tap,id=net%d,fd=%d", i, fd))
	a.device(device{Driver: "virtio-net-device", ID: fmt.Sprintf("nic%d", i), NetDev: fmt.Sprintf("net%d", i), MAC: mac})
}

// The options that QEMU takes as JSON.
type (
	blockdev struct {
		Driver   string `json:"driver"`
		Node     string `json:"node-name"`
		Filename string `json:"filename,omitempty"`
		File     string `json:"file,omitempty"`
		ReadOnly bool   `json:"read-only"`
	}
	device struct {
		Driver string `json:"driver"`
		ID     string `json:"id"`
		Drive  string `json:"drive,omitempty"`
		Serial string `json:"serial,omitempty"`
		NetDev string `json:"netdev,omitempty"`
		MAC    string `json:"mac,omitempty"`
		RNG    string `json:"rng,omitempty"`
	}
	rngObject struct {
		QOMType  string `json:"qom-type"`
		ID       string `json:"id"`
		Filename string `json:"filename"`
	}
)

// nodeName names the block node of disk i; the statistics are found by it.
func nodeName(i int) string { return fmt.Sprintf("disk%d", i) }

// serial is a disk's id as the guest reads it in /sys/block/*/serial: virtio has room for twenty bytes.
func serial(id string) string { return id[:min(len(id), 20)] }

func accelValue(accel string) string {
	if accel == accelTCG {
		return fmt.Sprintf("tcg,tb-size=%d", tcgCache)
	}
	return accel
}

// cpuFeatures are the features that can be switched: those that somebody wants to see with and without, that QEMU has
// under both accelerators, and that Linux boots without. One that this host lacks is refused by QEMU itself.
var cpuFeatures = []string{"aes", "avx", "avx2", "fma", "pclmulqdq", "rdrand", "sse4.1", "sse4.2"}

// cpuModel is everything that the accelerator offers, changed by the client's features ("on" or "off").
func cpuModel(cpu types.CPU, h hostFacts) (string, error) {
	model := map[string]string{accelKVM: "host", accelTCG: "max"}[h.accel]
	if len(cpu.Features) == 0 {
		return model, nil
	}
	model += ",enforce" // what the host cannot do must not be left out in silence
	for _, name := range cpuFeatures {
		value, ok := cpu.Features[name]
		if !ok {
			continue
		}
		if value != "on" && value != "off" {
			return "", types.FieldErrorf(types.KindInvalid, fmt.Sprintf("config.cpu.features[%q]", name), "%q is neither on nor off", value)
		}
		model += "," + name + "=" + value
	}
	return model, nil
}

func smpValue(cpu types.CPU) (string, error) {
	t := cpu.Topology
	if t == nil {
		return strconv.Itoa(cpu.Count), nil
	}
	if product := int64(t.Sockets) * int64(t.CoresPerSocket) * int64(t.ThreadsPerCore); product != int64(cpu.Count) {
		return "", types.FieldErrorf(types.KindInvalid, "config.cpu.topology",
			"%d sockets of %d cores of %d threads are %d vCPUs, and vcpu_count is %d", t.Sockets, t.CoresPerSocket, t.ThreadsPerCore, product, cpu.Count)
	}
	return fmt.Sprintf("%d,sockets=%d,cores=%d,threads=%d", cpu.Count, t.Sockets, t.CoresPerSocket, t.ThreadsPerCore), nil
}

// macAddress is the one asked for, or one derived from the names of the VM and the interface, so that it stays the
// same over reboots and differs between VMs. 52:54:00 is QEMU's prefix.
func macAddress(id types.VMID, n types.Network) string {
	if n.MAC != "" {
		return n.MAC
	}
	sum := sha256.Sum256([]byte(string(id) + "\x00" + n.ID))
	return fmt.Sprintf("52:54:00:%02x:%02x:%02x", sum[0], sum[1], sum[2])
}

// escape makes a value safe in QEMU's comma-separated options.
func escape(value string) string { return strings.ReplaceAll(value, ",", ",,") }
