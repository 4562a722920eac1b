// Package cgroup makes, fills, reads and removes the control group of one VM, on cgroup v1 and v2. metald does it
// itself: the jailer can not write every limit (an io.max has '=' in it), and whoever makes a group has to remove it.
//
// Root is what the host offers, Parent the subtree of one metald, Group one VM. None of them keeps anything that the
// kernel knows: a Group is names of directories, so that a metald that was started anew has as good a one.
//
// Files and rules: Documentation/admin-guide/cgroup-v2.rst and cgroup-v1/ of the kernel.
package cgroup

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// Controllers, by the names that both versions use; v2 calls v1's blkio io, and counts CPU time without cpuacct.
const (
	cpuCtrl     = "cpu"
	cpuacctCtrl = "cpuacct"
	memoryCtrl  = "memory"
	pidsCtrl    = "pids"
	blkioCtrl   = "blkio"
	ioCtrl      = "io"
)

// Root is the host's hierarchy, or on v1 its hierarchies.
type Root struct {
	version     int
	hierarchies []hierarchy
	kernel      kernel
}

// hierarchy is a directory of one mount and the controllers that it has, of those that are used here.
type hierarchy struct {
	dir         string
	controllers []string
}

func (h hierarchy) has(controller string) bool { return slices.Contains(h.controllers, controller) }

// below is the same hierarchy further down.
func (h hierarchy) below(name string) hierarchy {
	return hierarchy{dir: filepath.Join(h.dir, name), controllers: h.controllers}
}

// Find tells which version this host limits memory and CPU with. A v2 mount without these controllers, as hybrid
// hosts have, does not count: there it is v1. The error says what is missing where, and what to do.
func Find() (*Root, error) {
	mountinfo, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return nil, fmt.Errorf("find the host's cgroups: %w", err)
	}
	return find(string(mountinfo), "/", cgroupfs{})
}

// Version is 1 or 2.
func (r *Root) Version() int { return r.version }

// Counting is what of the host's cgroups counts CPU time: on v1 one hierarchy, on v2 there is only one. Groups in it cost
// less, and limit nothing.
func (r *Root) Counting() *Root {
	counting := &Root{version: r.version, kernel: r.kernel}
	for _, h := range r.hierarchies {
		if r.version == 2 || h.has(cpuacctCtrl) {
			counting.hierarchies = append(counting.hierarchies, h)
		}
	}
	return counting
}

// find takes the mounts to be below base.
func find(mountinfo, base string, k kernel) (*Root, error) {
	v1, v2, notes := readMounts(mountinfo, base)
	missing2 := missing(v2)
	if len(missing2) == 0 {
		return &Root{version: 2, hierarchies: v2, kernel: k}, nil
	}
	missing1 := missing(v1)
	if len(missing1) == 0 {
		return &Root{version: 1, hierarchies: v1, kernel: k}, nil
	}
	return nil, errors.New("the host's cgroups do not do: " + strings.Join(append([]string{
		lacks(2, v2, missing2), lacks(1, v1, missing1),
	}, notes...), "; ") + "; mount cgroup2 at /sys/fs/cgroup, or boot with systemd.unified_cgroup_hierarchy=1;" +
		" where the kernel has a controller disabled (/proc/cgroups), boot with cgroup_enable=memory")
}

// missing lists what no host of VMs can do without; pids and io are missed only once a limit needs them.
func missing(hs []hierarchy) []string {
	var names []string
	for _, c := range []string{cpuCtrl, memoryCtrl} {
		if !slices.ContainsFunc(hs, func(h hierarchy) bool { return h.has(c) }) {
			names = append(names, c)
		}
	}
	return names
}

func lacks(version int, hs []hierarchy, missing []string) string {
	if len(hs) == 0 {
		return fmt.Sprintf("v%d is not mounted with any controller in use", version)
	}
	return fmt.Sprintf("v%d has no controller %s", version, strings.Join(missing, ", "))
}

// checkName keeps a name to one component of a path.
func checkName(name string) error {
	const allowed = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_.-"
	if name == "" || name == "." || name == ".." || len(name) > 255 || strings.Trim(name, allowed) != "" {
		return fmt.Errorf("%q is no name of a cgroup: want 1 to 255 letters, digits, '_', '.' or '-', not '.' or '..'", name)
	}
	return nil
}
