package cloudhypervisor

import (
	"golang.org/x/sys/unix"
)

// landlockNeeded is the ABI of Landlock that Cloud Hypervisor 53.0 asks of the kernel, or fails (vmm/src/landlock.rs):
// that of Linux 6.2.
const landlockNeeded = 3

// landlocks says whether this host's kernel can have a VMM lock itself out of all files but its own.
func landlocks() bool {
	abi, _, errno := unix.Syscall(unix.SYS_LANDLOCK_CREATE_RULESET, 0, 0, unix.LANDLOCK_CREATE_RULESET_VERSION)
	return errno == 0 && abi >= landlockNeeded
}

// lockdownRules are what the VMM uses beside what the VM's config names: it removes its API's socket when it ends.
func lockdownRules() []landlockRule { return []landlockRule{{Path: socketsDir, Access: "rw"}} }
