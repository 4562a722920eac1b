package main

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

type mountPoint struct{ kind, dir, options string }

// mountFileSystems mounts what a guest's user space expects. The kernel may have mounted /dev already. The directories
// are part of the root disk, so that this works on a read-only one too.
func mountFileSystems() error {
	var errs []error
	for _, m := range []mountPoint{
		{"proc", "/proc", ""},
		{"sysfs", "/sys", ""},
		{"devtmpfs", "/dev", "mode=0755"},
		{"tmpfs", "/run", "mode=0755"},
		{"tmpfs", "/tmp", "mode=1777"},
	} {
		err := unix.Mount(m.kind, m.dir, m.kind, unix.MS_NOSUID, m.options)
		if err != nil && !errors.Is(err, unix.EBUSY) {
			errs = append(errs, fmt.Errorf("mount %s: %w", m.dir, err))
		}
	}
	return errors.Join(errs...)
}

// quietKernel keeps all but errors of the kernel's log off the console: the kernel writes in the middle of others'
// lines. A panic still comes through.
func quietKernel() error {
	const actionConsoleLevel, errorsOnly = 8, 4
	_, _, errno := unix.Syscall(unix.SYS_SYSLOG, actionConsoleLevel, 0, errorsOnly)
	if errno != 0 {
		return fmt.Errorf("quiet the kernel's log: %w", errno)
	}
	return nil
}

// sysrq asks the kernel for one of its emergency functions; see Documentation/admin-guide/sysrq.rst.
func sysrq(key string) error {
	return os.WriteFile("/proc/sysrq-trigger", []byte(key), 0)
}
