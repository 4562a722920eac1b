package firecracker

import (
	"strings"

	"github.com/unkeyed/unkey/go/deploy/metald/internal/backend/types"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/kernelargs"
)

// Firecracker takes 2047 bytes of arguments, its own included: where each device is (as in
// " virtio_mmio.device=4K@0xc0001000:5"), that there is no PCI, and the root device.
const (
	maxKernelArgs  = 2047
	argsPerDevice  = 40
	argsForTheRest = 40
)

// bootArgs are the arguments of a guest's kernel.
type bootArgs struct {
	line string
	// rootByVMM leaves it to Firecracker to say which device is the root: it appends root=/dev/vda and ro or rw, which
	// would outdo what the client says of either.
	rootByVMM bool
}

// kernelArgs is what the client gave, and before it what the client left open, so that nothing of metald's lands
// behind a "--", where it would be an argument of init. Arguments replace the ones that Firecracker has by default.
func kernelArgs(spec types.Spec) (bootArgs, error) {
	given := kernelargs.Names(spec.Boot.KernelArgs)
	var args []string
	missing := func(name, arg string) {
		if !given[name] {
			args = append(args, arg)
		}
	}
	if spec.Console.Enabled {
		missing("console", "console=ttyS0")
	} else {
		missing("8250.nr_uarts", "8250.nr_uarts=0")
	}
	missing("reboot", "reboot=k") // by the keyboard controller: it is what ends Firecracker
	missing("panic", "panic=1")   // a second later, so that the console's last lines get out
	for _, quick := range []string{"i8042.noaux", "i8042.nomux", "i8042.dumbkbd"} {
		missing(quick, quick) // a keyboard controller with Ctrl-Alt-Del and nothing to search for
	}
	root := spec.RootDisk()
	byVMM := root >= 0 && !given["root"] && !given["ro"] && !given["rw"]
	if root >= 0 && !given["root"] && !byVMM {
		args = append(args, "root=/dev/vda")
	}
	if user := strings.TrimSpace(spec.Boot.KernelArgs); user != "" {
		args = append(args, user)
	}
	line := strings.Join(args, " ")
	return bootArgs{line: line, rootByVMM: byVMM}, checkLength(spec, line)
}

func checkLength(spec types.Spec, line string) error {
	devices := len(spec.Disks) + len(spec.Networks) + 1 // the entropy source
	room := maxKernelArgs - devices*argsPerDevice - argsForTheRest
	if len(line) <= room {
		return nil
	}
	return types.FieldErrorf(types.KindInvalid, "config.boot.kernel_args",
		"with the %d bytes that metald adds they have %d, and beside what Firecracker adds for %d devices there is room for %d",
		len(line)-len(spec.Boot.KernelArgs), len(line), devices, room)
}
