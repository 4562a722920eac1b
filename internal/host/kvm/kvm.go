// Package kvm says what the host's /dev/kvm asks of those who open it. Whether guests run under it, only a boot tells.
package kvm

import "golang.org/x/sys/unix"

// Group returns the group of /dev/kvm, and whether a process of an ordinary user has to be in it.
func Group() (gid uint32, needed bool) {
	var st unix.Stat_t
	if err := unix.Stat("/dev/kvm", &st); err != nil {
		return 0, false
	}
	return st.Gid, st.Mode&0o006 != 0o006 && st.Mode&0o060 == 0o060
}
