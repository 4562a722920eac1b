package qemu

import (
	"fmt"
	"strings"
	"unicode"

	"github.com/unkeyed/unkey/go/deploy/metald/internal/backend/types"
)

// maxKernelArgs is what Linux on x86 takes, without the end of its string (COMMAND_LINE_SIZE).
const maxKernelArgs = 2047

// kernelArgs is the guest's command line: what the client gave, and before it what the client left open, so that
// nothing of metald's lands behind a "--", where it would be an argument of init.
func kernelArgs(spec types.Spec, h hostFacts) (string, error) {
	given := parseKernelArgs(spec.Boot.KernelArgs)
	var args []string
	missing := func(name, arg string) {
		if !given[name] {
			args = append(args, arg)
		}
	}
	if spec.Console.Enabled {
		missing("console", "console=ttyS0")
	}
	missing("reboot", "reboot=t")
	missing("panic", "panic=-1") // a panic ends QEMU at once, by way of -no-reboot
	if h.accel == accelTCG && h.tscKHz > 0 {
		// Without it most boots hang in "tsc: Unable to calibrate against PIT".
		missing("tsc_early_khz", fmt.Sprintf("tsc_early_khz=%d", h.tscKHz))
	}
	if i := rootDisk(spec); i >= 0 && !given["root"] {
		args = append(args, "root=/dev/vda")
		if !given["ro"] && !given["rw"] {
			args = append(args, map[bool]string{true: "ro", false: "rw"}[spec.Disks[i].ReadOnly])
		}
	}
	if user := strings.TrimSpace(spec.Boot.KernelArgs); user != "" {
		args = append(args, user)
	}
	line := strings.Join(args, " ")
	if len(line) > maxKernelArgs {
		return "", types.FieldErrorf(types.KindInvalid, "config.boot.kernel_args",
			"with the %d bytes that metald adds they have %d, and Linux takes %d", len(line)-len(spec.Boot.KernelArgs), len(line), maxKernelArgs)
	}
	return line, nil
}

// parseKernelArgs returns the names of the arguments that are for the kernel.
func parseKernelArgs(line string) map[string]bool {
	names := map[string]bool{}
	for _, word := range splitKernelArgs(line) {
		if word == "--" {
			break
		}
		name, _, _ := strings.Cut(word, "=")
		names[strings.Trim(name, `"`)] = true
	}
	return names
}

// splitKernelArgs splits as Linux does (lib/cmdline.c, next_arg): at white space that doesn't stand between double
// quotes. Nothing escapes a quote.
func splitKernelArgs(line string) []string {
	quoted := false
	return strings.FieldsFunc(line, func(r rune) bool {
		if r == '"' {
			quoted = !quoted
		}
		return !quoted && unicode.IsSpace(r)
	})
}

// rootDisk is the index of the disk that becomes /dev/vda and is mounted as root: the one that says so, or the only
// one. -1 if there is none.
func rootDisk(spec types.Spec) int {
	for i, d := range spec.Disks {
		if d.Root {
			return i
		}
	}
	if len(spec.Disks) == 1 {
		return 0
	}
	return -1
}
