package jailer

import (
	"fmt"
	"path/filepath"
	"strconv"
)

// pidSuffix is what the jailer puts behind the executable's name for the file with the VMM's pid.
const pidSuffix = ".pid"

// MaxSocketPath is the longest path of a unix socket in bytes: sun_path has 108, the last of which is 0 (unix(7)).
const MaxSocketPath = 107

// vsockPortDigits is room for "_" and the largest port behind the vsock's path, where the guest's connections come out.
const vsockPortDigits = len("_4294967295")

// Names of what metald has in every jail, from the jail's root. They are the same for every VM, so that nothing of the
// host shows in a jail, and a snapshot fits into another one.
const (
	runDir      = "run"
	socketName  = "run/firecracker.socket"
	kernelName  = "kernel"
	initrdName  = "initrd"
	metricsName = "metrics.fifo"
	logName     = "log.fifo"
	vsockName   = "v.sock"
	diskPrefix  = "disk-"
)

// taken says whether a name in the jail's root is metald's or the jailer's.
func taken(name string) bool {
	switch name {
	case runDir, "dev", kernelName, initrdName, metricsName, logName, vsockName:
		return true
	}
	return len(name) > len(diskPrefix) && name[:len(diskPrefix)] == diskPrefix ||
		len(name) > len(vsockName) && name[:len(vsockName)+1] == vsockName+"_"
}

// Place is one file, by its two names.
type Place struct {
	Host   string // to metald. The jail belongs to the VMM's user: what is at the end of it may be a link
	Inside string // to the VMM, whose root directory is the jail
}

// Layout is where everything of one jail is. It is computed here and nowhere else.
type Layout struct {
	// Dir is the jail with all that is around it, <base>/<executable's name>/<id>. Removing a jail removes it.
	Dir string
	// Root becomes the VMM's root directory: root, below Dir.
	Root string

	exec string
}

// Layout returns where things are, once they are made.
func (s Spec) Layout() (Layout, error) {
	return LayoutOf(s.ChrootBase, s.ExecFile, s.ID)
}

// LayoutOf returns the layout of a jail by what its path is made of, which is what survives in a record.
func LayoutOf(base, execFile, id string) (Layout, error) {
	if err := checkPlace(base, execFile, id); err != nil {
		return Layout{}, fmt.Errorf("jail %q: %w", id, err)
	}
	exec := filepath.Base(execFile)
	dir := filepath.Join(base, exec, id)
	return Layout{Dir: dir, Root: filepath.Join(dir, "root"), exec: exec}, nil
}

// place is called with names that are made here.
func (l Layout) place(name string) Place {
	return Place{Host: filepath.Join(l.Root, name), Inside: "/" + name}
}

// Exec is the jailer's copy of the VMM.
func (l Layout) Exec() Place { return l.place(l.exec) }

// PIDFile has the pid of the VMM as the host knows it, without a newline. The VMM may write anything into it later.
func (l Layout) PIDFile() Place { return l.place(l.exec + pidSuffix) }

// Socket is the API's.
func (l Layout) Socket() Place { return l.place(socketName) }

// Kernel is what the VMM boots.
func (l Layout) Kernel() Place { return l.place(kernelName) }

// Initrd is the initial RAM disk.
func (l Layout) Initrd() Place { return l.place(initrdName) }

// Disk is the disk with the given index in the spec of the VM.
func (l Layout) Disk(i int) Place { return l.place(diskPrefix + strconv.Itoa(i)) }

// Metrics is the FIFO of the metrics.
func (l Layout) Metrics() Place { return l.place(metricsName) }

// Log is the FIFO of the log.
func (l Layout) Log() Place { return l.place(logName) }

// Vsock is where the host connects to the guest.
func (l Layout) Vsock() Place { return l.place(vsockName) }

// VsockPort is where the guest's connections to a port of the host come out. metald makes it, and the VMM connects.
func (l Layout) VsockPort(port uint32) Place {
	return l.place(vsockName + "_" + strconv.FormatUint(uint64(port), 10))
}

// CheckSockets says whether the jail's sockets can be reached by their paths on the host. Where not, a client can go by
// way of a descriptor of their directory. vsock says whether the VM has one.
func (l Layout) CheckSockets(vsock bool) error {
	longest, size := l.Socket().Host, len(l.Socket().Host)
	if n := len(l.Vsock().Host) + vsockPortDigits; vsock && n > size {
		longest, size = l.Vsock().Host+"_<port>", n
	}
	if size <= MaxSocketPath {
		return nil
	}
	return fmt.Errorf("socket %s: with %d bytes its path is %d too long for a unix socket; a shorter chroot base, id or name of the executable helps",
		longest, size, size-MaxSocketPath)
}
