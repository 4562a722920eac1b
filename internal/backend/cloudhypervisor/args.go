package cloudhypervisor

import (
	"strings"

	"github.com/unkeyed/unkey/go/deploy/metald/internal/backend/types"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/kernelargs"
)

// maxKernelArgs is what Linux on x86 takes, without the end of its string (COMMAND_LINE_SIZE).
const maxKernelArgs = 2047

// kernelArgs is the guest's command line: what the client gave, and before it what the client left open, so that
// nothing of metald's lands behind a "--", where it would be an argument of init. One argument that is right with other
// VMMs is left out, so that the same config boots here: pci=off.
func kernelArgs(spec types.Spec) (string, error) {
	given := kernelargs.Names(spec.Boot.KernelArgs)
	var args []string
	missing := func(name, arg string) {
		if !given[name] {
			args = append(args, arg)
		}
	}
	if spec.Console.Enabled {
		missing("console", "console=ttyS0")
	}
	// By the keyboard controller, of which there is just enough for it. Linux would try ACPI first and the controller
	// right after it, which Cloud Hypervisor would take for two reboots, were it not for a guess; and a small kernel has
	// no ACPI. Power off is ACPI's alone.
	missing("reboot", "reboot=k")
	missing("panic", "panic=1") // a second later, so that the console's last lines get out
	if i := spec.RootDisk(); i >= 0 && !given["root"] {
		args = append(args, "root=/dev/vda")
		if !given["ro"] && !given["rw"] {
			args = append(args, map[bool]string{true: "ro", false: "rw"}[spec.Disks[i].ReadOnly])
		}
	}
	// Other VMMs have no PCI, and save their guests the search. Here every device is on it: the guest would find no disk.
	if user := strings.TrimSpace(kernelargs.Without(spec.Boot.KernelArgs, "pci=off")); user != "" {
		args = append(args, user)
	}
	line := strings.Join(args, " ")
	if len(line) > maxKernelArgs {
		return "", types.FieldErrorf(types.KindInvalid, "config.boot.kernel_args",
			"with the %d bytes that metald adds they have %d, and Linux takes %d", max(0, len(line)-len(spec.Boot.KernelArgs)), len(line), maxKernelArgs)
	}
	return line, nil
}
