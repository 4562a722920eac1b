package cloudhypervisor

import (
	"fmt"
	"slices"
	"strings"
)

// option is an argument that Cloud Hypervisor knows.
type option struct {
	value    bool // it has one
	untaught bool // the stand-in was not taught it
	of       []string
}

func knownOptions() map[string]option {
	known := map[string]option{
		"api-socket": {value: true}, "event-monitor": {value: true}, "log-file": {value: true}, "log-format": {value: true},
		"seccomp":  {value: true, of: []string{"true", "false", "log", "errno"}},
		"landlock": {}, "no-shutdown": {}, "pvpanic": {},
		"kernel": {value: true}, "cmdline": {value: true}, "initramfs": {value: true}, "serial": {value: true},
		"console": {value: true}, "cpus": {value: true}, "memory": {value: true},
	}
	for _, name := range []string{
		"balloon", "debug-console", "device", "disk", "firmware", "fs", "generic-vhost-user", "landlock-rules", "memory-zone",
		"net", "numa", "pci-segment", "platform", "pmem", "rate-limit-group", "restore", "rng", "rtc", "tpm", "user-device",
		"vdpa", "vsock",
	} {
		known[name] = option{value: true, untaught: true}
	}
	known["watchdog"] = option{untaught: true}
	return known
}

// arguments are a command line that was understood.
type arguments struct {
	values  map[string]string
	verbose int // how many v
	version bool
	help    bool
}

func (a *arguments) has(name string) bool { _, ok := a.values[name]; return ok }

// usageError is a command line that is refused, in the words of Cloud Hypervisor's parser of arguments.
type usageError string

func (e usageError) Error() string {
	return "error: " + string(e) + "\n\nFor more information, try '--help'."
}

const usage = "\n\nUsage: cloud-hypervisor [OPTIONS]"

func parseArguments(args []string) (*arguments, error) {
	a := &arguments{values: map[string]string{}}
	known := knownOptions()
	for len(args) > 0 {
		word := args[0]
		args = args[1:]
		name, long := strings.CutPrefix(word, "--")
		var err error
		switch {
		case !long && strings.HasPrefix(word, "-") && len(word) > 1:
			err = a.short(word[1:])
		case !long || name == "":
			err = usageError(fmt.Sprintf("unexpected argument '%s' found%s", word, usage))
		default:
			args, err = a.long(known, name, args)
		}
		if err != nil {
			return nil, err
		}
		if a.version || a.help {
			return a, nil
		}
	}
	return a, a.check()
}

func (a *arguments) short(letters string) error {
	for _, c := range letters {
		switch c {
		case 'v':
			a.verbose++
		case 'V':
			a.version = true
		case 'h':
			a.help = true
		default:
			return usageError(fmt.Sprintf("unexpected argument '-%c' found%s", c, usage))
		}
	}
	return nil
}

func (a *arguments) long(known map[string]option, name string, rest []string) ([]string, error) {
	name, value, inline := strings.Cut(name, "=")
	switch name {
	case "version":
		a.version = true
		return rest, nil
	case "help":
		a.help = true
		return rest, nil
	}
	o, ok := known[name]
	shown := fmt.Sprintf("--%s <%s>", name, name)
	switch {
	case !ok:
		return nil, usageError(fmt.Sprintf("unexpected argument '--%s' found%s", name, usage))
	case o.untaught:
		return nil, fmt.Errorf("stub-cloud-hypervisor: the stand-in has no --%s", name)
	case !o.value && inline:
		return nil, usageError(fmt.Sprintf("unexpected value '%s' for '--%s' found; no more were expected\n\nUsage: cloud-hypervisor --%[2]s", value, name))
	case !o.value:
		shown = "--" + name
	case o.value && !inline:
		if len(rest) == 0 || strings.HasPrefix(rest[0], "-") && rest[0] != "-" {
			return nil, usageError(fmt.Sprintf("a value is required for '%s' but none was supplied", shown))
		}
		value, rest = rest[0], rest[1:]
	}
	if a.has(name) {
		return nil, usageError(fmt.Sprintf("the argument '%s' cannot be used multiple times%s", shown, usage))
	}
	if o.of != nil && !slices.Contains(o.of, value) {
		return nil, usageError(fmt.Sprintf("invalid value '%s' for '%s'\n  [possible values: %s]", value, shown, strings.Join(o.of, ", ")))
	}
	a.values[name] = value
	return rest, nil
}

// check finds what describes a VM without a kernel for it.
func (a *arguments) check() error {
	for _, name := range []string{"cpus", "memory", "cmdline", "initramfs", "serial", "console", "pvpanic"} {
		if a.has(name) && !a.has("kernel") {
			return usageError("the following required arguments were not provided:\n  <--firmware <firmware>|--kernel <kernel>>" + usage)
		}
	}
	return nil
}
