package firecracker

import (
	"strings"

	"golang.org/x/sys/unix"

	"github.com/unkeyed/unkey/go/deploy/metald/internal/backend/stubvmm/rust"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/guest"
)

// The kernel's command line is this long at most, and these are its words where the client gives none.
const (
	maxCmdline     = 2047
	defaultCmdline = "reboot=k panic=1 nomodule 8250.nr_uarts=0 i8042.noaux i8042.nomux i8042.dumbkbd swiotlb=noforce"
)

// The keyboard's buffer, and what Ctrl-Alt-Del takes of it, in bytes.
const (
	keyBuffer = 16
	pressKeys = 4
)

func (v *vmm) action(b actionBody) error {
	switch b.ActionType {
	case "InstanceStart":
		return v.start()
	case "FlushMetrics":
		return v.flushMetrics()
	}
	if err := v.postBoot(); err != nil {
		return err
	}
	if v.keys+pressKeys > keyBuffer {
		return faultf("Internal VMM error: I8042 error: i8042 internal buffer full.")
	}
	v.keys += pressKeys
	v.changed.Broadcast()
	return nil
}

func (v *vmm) flushMetrics() error {
	if err := v.postBoot(); err != nil {
		return err
	}
	v.firstLine()
	if err := v.metrics.write(); err != nil {
		return faultf("Internal VMM error: Metrics error: %v", err)
	}
	return nil
}

func (v *vmm) setState(b vm) error {
	if err := v.postBoot(); err != nil {
		return err
	}
	v.state = running
	if b.State == "Paused" {
		v.state = paused
	} else if v.missed {
		v.missed = false
		v.periodic()
	}
	v.changed.Broadcast()
	return nil
}

func (v *vmm) setLogger(c loggerConfig) error {
	if err := v.preBoot(); err != nil {
		return err
	}
	if err := v.log.configure(c); err != nil {
		return faultf("Logger error: Failed to open target file: %s", rust.IOError(err))
	}
	return nil
}

func (v *vmm) setMetrics(c metricsConfig) error {
	if err := v.preBoot(); err != nil {
		return err
	}
	if err := v.metrics.open(string(c.MetricsPath)); err != nil {
		return faultf("Metrics error: %v", err)
	}
	return nil
}

func (v *vmm) setSerial(c serialConfig) error {
	if err := v.preBoot(); err != nil {
		return err
	}
	v.serial = c
	return nil
}

func (v *vmm) setBootSource(c bootSourceConfig) error {
	if err := v.preBoot(); err != nil {
		return err
	}
	v.bootPath = true
	kernel, err := openRead(c.KernelImagePath)
	if err != nil {
		return faultf("Boot source error: The kernel file cannot be opened: %s", rust.IOError(err))
	}
	if c.InitrdPath != nil {
		initrd, err := openRead(*c.InitrdPath)
		if err != nil {
			closeFD(kernel)
			return faultf("Boot source error: The initrd file cannot be opened due to invalid path or invalid permissions. %s", rust.IOError(err))
		}
		closeFD(initrd)
	}
	line := defaultCmdline
	if c.BootArgs != nil {
		line = *c.BootArgs
	}
	if len(line) > maxCmdline {
		closeFD(kernel)
		return faultf("Boot source error: The kernel command line is invalid: Invalid cmdline capacity provided.")
	}
	if v.boot != nil {
		closeFD(v.kernel)
	}
	v.boot, v.kernel, v.cmdline = &c, kernel, line
	return nil
}

// start starts the machine. After an error it is as it was.
func (v *vmm) start() error {
	if err := v.preBoot(); err != nil {
		return err
	}
	if v.boot == nil {
		return faultf("Start microvm error: Cannot start microvm without kernel configuration.")
	}
	if err := v.checkMemory(); err != nil {
		return err
	}
	line, err := v.fullCmdline()
	if err != nil {
		return err
	}
	if why := checkKernel(v.kernel); why != "" {
		return faultf("Start microvm error: System configuration error: Cannot load kernel due to invalid memory configuration or invalid kernel image: Kernel Loader: failed to load ELF kernel image: Kernel Loader: %s", why)
	}
	for _, p := range v.pmem {
		if err := checkPmem(p); err != nil {
			return faultf("Start microvm error: Cannot create pmem device: Error accessing backing file: %s", rust.IOError(err))
		}
	}
	if err := v.knobs.parse(strings.Fields(line)); err != nil {
		return faultf("Start microvm error: %v", err)
	}
	wishes, err := guest.ParseOptions(line)
	if err != nil {
		return faultf("Start microvm error: stub-firecracker: %v", err)
	}
	console, err := v.openConsole(line)
	if err != nil {
		return faultf("Start microvm error: Failed to create device manager: Error with EventFd: %s", rust.IOError(err))
	}
	v.wishes, v.console, v.cmdline = wishes, console, line
	v.begin(running)
	return nil
}

// checkMemory asks for the guest's memory, and gives it back.
func (v *vmm) checkMemory() error {
	err := error(unix.ENOMEM)
	if size := uint64(v.machine.MemSizeMiB); size < 1<<40 {
		var b []byte
		if b, err = unix.Mmap(-1, 0, int(size<<20), unix.PROT_NONE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS|unix.MAP_NORESERVE); err == nil {
			err = unix.Munmap(b)
		}
	}
	if err != nil {
		return faultf("Start microvm error: Invalid Memory Configuration: Cannot create mmap region: %s", rust.IOError(err))
	}
	return nil
}

// fullCmdline is what the guest's kernel is told: the client's words, and the devices. How the latter are written counts
// for the length only.
func (v *vmm) fullCmdline() (string, error) {
	const long = "Inserting string would make command line too long."
	line := v.cmdline
	if !v.pci {
		line += " pci=off"
	}
	for _, d := range v.drives {
		if d.IsRootDevice {
			root := "/dev/vda"
			if d.PartUUID != nil {
				root = "PARTUUID=" + *d.PartUUID
			}
			line += " root=" + root + " " + map[bool]string{true: "ro", false: "rw"}[d.readOnly()]
		}
	}
	if len(line) > maxCmdline {
		return "", faultf("Start microvm error: Invalid kernel command line: %s", long)
	}
	if v.pci {
		return line, nil
	}
	devices := len(v.drives) + len(v.networks) + len(v.pmem)
	for _, there := range []bool{v.entropy != nil, v.vsock != nil, v.balloon != nil, v.hotplug != nil} {
		if there {
			devices++
		}
	}
	line += strings.Repeat(" virtio_mmio.device=4K@0xc0001000:5", devices)
	if len(line) > maxCmdline {
		return "", faultf("Start microvm error: Could not attach device: MMIO transport error: Failed to allocate requested resourc: %s", long)
	}
	return line, nil
}

// begin lets the machine be in a state for the first time, and has the first line of metrics written.
func (v *vmm) begin(state string) {
	v.state = state
	v.traceTruth()
	v.unsaid = true
	go func() { // it comes after the answer, and before whatever is asked next
		v.mu.Lock()
		defer v.mu.Unlock()
		v.firstLine()
	}()
	go v.minutes()
	switch {
	case v.knobs.Crash:
		abort()
	case !v.knobs.NotRun:
		go v.guest()
		go v.traffic()
	}
}
