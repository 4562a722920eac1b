package cgroup

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// readMounts finds the hierarchies that can be used, and says of those that can not be why (proc(5),
// /proc/pid/mountinfo). base is what the mount points are below.
func readMounts(mountinfo, base string) (v1, v2 []hierarchy, notes []string) {
	for line := range strings.Lines(mountinfo) {
		m, ok := parseMount(line)
		if !ok {
			continue
		}
		h := hierarchy{dir: filepath.Join(base, m.point), controllers: m.controllers}
		if m.fstype == "cgroup2" {
			h.controllers = among(readWords(h.dir, "cgroup.controllers"), cpuCtrl, memoryCtrl, ioCtrl, pidsCtrl)
		}
		switch {
		case len(h.controllers) == 0 || !exists(h.dir, "cgroup.procs"):
			// A tree of names only, or one that another mount hides.
		case m.readOnly:
			notes = append(notes, fmt.Sprintf("%s is mounted read-only", m.point))
		case m.fstype == "cgroup2":
			if len(v2) == 0 { // further mounts show the same tree
				v2 = append(v2, h)
			}
		default:
			v1 = addNew(v1, h)
		}
	}
	return v1, v2, notes
}

// addNew leaves out a hierarchy that is mounted a second time: in v1 a controller is in one only.
func addNew(hs []hierarchy, h hierarchy) []hierarchy {
	for _, known := range hs {
		if known.has(h.controllers[0]) {
			return hs
		}
	}
	return append(hs, h)
}

// mount is a line of mountinfo about a cgroup filesystem.
type mount struct {
	point       string
	fstype      string
	readOnly    bool
	controllers []string // v1
}

// parseMount reads "id parent major:minor root point options [optional]... - fstype source superoptions".
func parseMount(line string) (mount, bool) {
	before, after, ok := strings.Cut(line, " - ")
	left, right := strings.Fields(before), strings.Fields(after)
	if !ok || len(left) < 6 || len(right) < 3 || (right[0] != "cgroup" && right[0] != "cgroup2") {
		return mount{}, false
	}
	options, super := strings.Split(left[5], ","), strings.Split(right[2], ",")
	return mount{
		point:       unescape(left[4]),
		fstype:      right[0],
		readOnly:    slices.Contains(options, "ro") || slices.Contains(super, "ro"),
		controllers: among(super, cpuCtrl, cpuacctCtrl, memoryCtrl, pidsCtrl, blkioCtrl),
	}, true
}

// unescape undoes the octal that the kernel writes for blanks and backslashes in paths.
func unescape(s string) string {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '\\' && i+3 < len(s) {
			if n, err := strconv.ParseUint(s[i+1:i+4], 8, 8); err == nil {
				b.WriteByte(byte(n))
				i += 3
				continue
			}
		}
		b.WriteByte(s[i])
	}
	return b.String()
}

// among keeps those of words that are wanted, in the order of wanted.
func among(words []string, wanted ...string) []string {
	var kept []string
	for _, w := range wanted {
		if slices.Contains(words, w) {
			kept = append(kept, w)
		}
	}
	return kept
}

// readWords is what a file has in it, nothing where it can not be read.
func readWords(dir, file string) []string {
	text, err := os.ReadFile(filepath.Join(dir, file))
	if err != nil {
		return nil
	}
	return strings.Fields(string(text))
}
