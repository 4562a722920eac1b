package jailer

import (
	"fmt"
	"path/filepath"
	"strconv"
	"strings"
)

// pidSuffix is what the jailer puts behind the executable's name for the file with the VMM's pid. metald never reads it:
// the VMM may write anything into it.
const pidSuffix = ".pid"

// Names of what is in the root of every VMM, from there. They are the same for every VM, so that nothing of the host
// shows in a jail, and a snapshot fits into another one.
const (
	RunDir  = "run"                    // of the socket; the jailer makes it where it is not there
	Socket  = "run/firecracker.socket" // the API's, made by the VMM
	Kernel  = "kernel"
	Initrd  = "initrd"
	Metrics = "metrics.fifo" // takes the VMM's metrics
	Console = "console.fifo" // takes what the guest writes to its serial console

	diskPrefix = "disk-"
)

// Disk is the name of the disk with the given index in the spec of the VM.
func Disk(i int) string { return diskPrefix + strconv.Itoa(i) }

// taken says whether a name in the root is metald's or the jailer's.
func taken(name string) bool {
	switch name {
	case RunDir, "dev", Kernel, Initrd, Metrics, Console:
		return true
	}
	return strings.HasPrefix(name, diskPrefix)
}

// Layout is where one jail is. It is computed here and nowhere else.
type Layout struct {
	// Dir is the jail with all that is around it, <base>/<executable's name>/<id>. Removing a jail removes it.
	Dir string
	// Root becomes the VMM's root directory: root, below Dir.
	Root string
	// Exec is the name in Root of the jailer's copy of the VMM.
	Exec string
}

// LayoutOf returns the layout of a jail by what its path is made of, which is what survives in a record.
func LayoutOf(base, execFile, id string) (Layout, error) {
	if err := checkPlace(base, execFile, id); err != nil {
		return Layout{}, fmt.Errorf("jail %q: %w", id, err)
	}
	exec := filepath.Base(execFile)
	dir := filepath.Join(base, exec, id)
	return Layout{Dir: dir, Root: filepath.Join(dir, "root"), Exec: exec}, nil
}

// Inside is the path by which the jailed VMM finds what has this name.
func Inside(name string) string { return "/" + name }
