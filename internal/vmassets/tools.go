package vmassets

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
)

// tool is a program or a file that must be on this machine, and the Debian and Ubuntu package that brings it.
type tool struct{ name, pkg string }

var (
	toolXZ       = tool{"xz", "xz-utils"}
	toolBusybox  = tool{"busybox", "busybox-static"}
	toolMke2fs   = tool{"mke2fs", "e2fsprogs"}
	toolDebugfs  = tool{"debugfs", "e2fsprogs"}
	toolMake     = tool{"make", "build-essential"}
	toolCompiler = tool{"gcc", "build-essential"}
	toolTar      = tool{"tar", "tar"}
)

// diskTools make the root disk, microTools the micro kernel.
func diskTools() []tool { return []tool{toolBusybox, toolMke2fs, toolDebugfs} }

func microTools() []tool {
	return []tool{
		toolTar, toolXZ, toolMake, toolCompiler,
		{"flex", "flex"}, {"bison", "bison"}, {"bc", "bc"},
		{"/usr/include/gelf.h", "libelf-dev"},
		{kernelSources, "linux-source"},
	}
}

// MissingPackages lists, sorted, the Debian and Ubuntu packages that are to be installed before Build with this kernel.
func MissingPackages(kernel string) []string {
	tools := diskTools()
	if kernel == KernelMicro {
		tools = append(tools, microTools()...)
	}
	var missing []string
	for _, t := range tools {
		if _, err := lookTool(t); err != nil {
			missing = append(missing, t.pkg)
		}
	}
	slices.Sort(missing)
	return slices.Compact(missing)
}

// lookTool finds a program, also in the directories for administrators that are not on everyone's PATH, or a file by a
// pattern that begins with a slash.
func lookTool(t tool) (string, error) {
	if strings.HasPrefix(t.name, "/") {
		if found, err := filepath.Glob(t.name); err == nil && len(found) > 0 {
			return found[len(found)-1], nil
		}
	} else if path, err := exec.LookPath(t.name); err == nil {
		return path, nil
	}
	for _, dir := range []string{"/usr/sbin", "/sbin"} {
		if path := filepath.Join(dir, t.name); isProgram(path) {
			return path, nil
		}
	}
	return "", missingError([]tool{t})
}

func isProgram(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.Mode().IsRegular() && info.Mode()&0o111 != 0
}

// requireTools reports everything that is missing at once.
func requireTools(tools []tool) error {
	var missing []tool
	for _, t := range tools {
		if _, err := lookTool(t); err != nil {
			missing = append(missing, t)
		}
	}
	if missing == nil {
		return nil
	}
	return missingError(missing)
}

func missingError(missing []tool) error {
	var names, pkgs []string
	for _, t := range missing {
		names = append(names, t.name)
		pkgs = append(pkgs, t.pkg)
	}
	slices.Sort(pkgs)
	pkgs = slices.Compact(pkgs)
	return fmt.Errorf("missing on this machine: %s; on Debian and Ubuntu: apt-get install -y %s (elsewhere: what provides the same)",
		strings.Join(names, ", "), strings.Join(pkgs, " "))
}
