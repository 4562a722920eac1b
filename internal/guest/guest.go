// Package guest holds the words that the tests' guest (cmd/guest-init, /sbin/init of the root disk made by
// cmd/vm-assets) and whoever drives it agree on: the lines it says on its console and the kernel arguments it obeys.
// It imports the standard library only, because it is linked into the guest.
package guest

import (
	"fmt"
	"time"
)

// Lines on the console. Each begins with Prefix, so that they can be told from the kernel's.
const (
	Prefix = "metald-guest: "
	// Marker is said once per boot, when the file systems are mounted: user space speaks.
	Marker = Prefix + "user space is up"
	// PowerButton is said when the power button (ACPI) was pressed, CtrlAltDel for that key combination, which is all
	// that Firecracker can press. With PowerIgnore the line ends in Ignored and nothing else happens.
	PowerButton = Prefix + "power button pressed"
	CtrlAltDel  = Prefix + "ctrl-alt-del pressed"
	Ignored     = ", ignored"
	// PoweringOff, Restarting and Panicking are the guest's last words: the disks are written and mounted read-only
	// by then (not for a panic).
	PoweringOff = Prefix + "powering off"
	Restarting  = Prefix + "restarting"
	Panicking   = Prefix + "panicking"
	// Flood begins every line of ArgFlood; its number and a filler follow.
	Flood = Prefix + "flood "
	// ShellExited is said when the shell of ArgShell ended; a new one is started.
	ShellExited = Prefix + "shell ended, starting another"
)

// Second is the line said at the end of second n of ArgCount, n from 1.
func Second(n int) string { return fmt.Sprintf("%ssecond %d", Prefix, n) }

// Wrote is the line said when n bytes have reached the disk behind path.
func Wrote(n int64, path string) string {
	return fmt.Sprintf("%swrote %d bytes to %s", Prefix, n, path)
}

// TouchRefused is the line said when path could not be written to; errno is its symbol, "EROFS" for a read-only file
// system.
func TouchRefused(path, errno string) string {
	return fmt.Sprintf("%swrite to %s refused: %s", Prefix, path, errno)
}

// TouchAccepted is the line said when path could be written to.
func TouchAccepted(path string) string { return fmt.Sprintf("%swrite to %s accepted", Prefix, path) }

// FloodLine is line n of ArgFlood, n from 1.
func FloodLine(n int, filler string) string { return fmt.Sprintf("%s%d%s", Flood, n, filler) }

// Burned is the line said when a burn ended: the CPU time it took by the guest's own clock, over all threads.
func Burned(cpu time.Duration) string {
	return fmt.Sprintf("%sburned %d ms of CPU", Prefix, cpu.Milliseconds())
}
