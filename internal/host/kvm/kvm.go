// Package kvm finds out whether KVM works on this host: what can be seen without a guest, and what a trial boot needs,
// which alone proves it.
package kvm

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// Verdict says whether KVM works on this host, and how that is known.
type Verdict struct {
	Usable bool   `json:"usable"`
	Why    string `json:"why"`
}

// Group returns the group of /dev/kvm, and whether a process of an ordinary user has to be in it.
func Group() (gid uint32, needed bool) {
	var st unix.Stat_t
	if err := unix.Stat("/dev/kvm", &st); err != nil {
		return 0, false
	}
	return st.Gid, st.Mode&0o006 != 0o006 && st.Mode&0o060 == 0o060
}

// Probe checks what can be checked without a guest. It proves little: on some hosts all this works and guests hang.
func Probe() Verdict {
	const kvmGetAPIVersion, wanted = 0xAE00, 12
	fd, err := unix.Open("/dev/kvm", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return Verdict{Why: fmt.Sprintf("/dev/kvm cannot be opened: %v", err)}
	}
	defer unix.Close(fd)
	version, err := unix.IoctlRetInt(fd, kvmGetAPIVersion)
	if err != nil || version != wanted {
		return Verdict{Why: fmt.Sprintf("/dev/kvm has API version %d (%v), and %d is wanted", version, err, wanted)}
	}
	return Verdict{Usable: true, Why: "/dev/kvm opens"}
}

// OthersOpen says why a process that is not root's, in the group of /dev/kvm or not, cannot open it; nil if it can.
func OthersOpen() error {
	var st unix.Stat_t
	if err := unix.Stat("/dev/kvm", &st); err != nil {
		return err
	}
	if st.Mode&0o006 == 0o006 || st.Mode&0o060 == 0o060 {
		return nil
	}
	return fmt.Errorf("/dev/kvm has mode %04o, so that only root can open it; chmod 0660 it, as distributions do", st.Mode&0o777)
}
