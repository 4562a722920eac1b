package jail

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// CheckBase says what keeps jails from working below base: where its file system is mounted with nodev, no VMM can open
// /dev/kvm in its jail, and with noexec none can be executed there.
func CheckBase(base string) error {
	var st unix.Statfs_t
	if err := unix.Statfs(base, &st); err != nil {
		return fmt.Errorf("file system of jails %s: %w", base, err)
	}
	for _, bad := range []struct {
		flag int64
		name string
		why  string
	}{
		{unix.ST_NODEV, "nodev", "open /dev/kvm in it"},
		{unix.ST_NOEXEC, "noexec", "be executed in it"},
		{unix.ST_RDONLY, "read-only", "be put there"},
	} {
		if int64(st.Flags)&bad.flag != 0 {
			return fmt.Errorf("file system of jails %s is mounted %s, so that no VMM could %s; mount it without, or use another directory", base, bad.name, bad.why)
		}
	}
	return nil
}
