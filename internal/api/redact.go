package api

import (
	"regexp"
	"strings"

	"github.com/unkeyed/unkey/go/deploy/metald/internal/backend/types"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/vm"
)

// hostPath finds what looks like an absolute path in an error text.
var hostPath = regexp.MustCompile(`(^|[\s"'=(,:])(/[^\s"'(),:;]+)`)

// redact replaces every absolute path in text that is not one of known or above one of them.
func redact(text string, known []string) string {
	if !strings.Contains(text, "/") {
		return text
	}
	return hostPath.ReplaceAllStringFunc(text, func(match string) string {
		start := strings.IndexByte(match, '/')
		if mayName(strings.TrimRight(match[start:], ".!?"), known) {
			return match
		}
		return match[:start] + "(a path of the host)"
	})
}

func mayName(path string, known []string) bool {
	for _, k := range known {
		if path == k || strings.HasPrefix(k, strings.TrimSuffix(path, "/")+"/") {
			return true
		}
	}
	return false
}

// specPaths are the paths that the client sent.
func specPaths(s types.Spec) []string {
	paths := []string{s.Boot.KernelPath, s.Boot.InitrdPath}
	for _, d := range s.Disks {
		paths = append(paths, d.Path)
	}
	return paths
}

// about returns what is known of the VM that a failed call was about.
func (f *faults) about(vmID string) (vm.Info, bool) {
	if vmID == "" {
		return vm.Info{}, false
	}
	info, err := f.vms.Get(types.VMID(vmID))
	return info, err == nil
}
