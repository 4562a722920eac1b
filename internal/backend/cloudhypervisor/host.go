package cloudhypervisor

import (
	"bufio"
	"fmt"
	"io/fs"
	"slices"
	"strconv"
	"strings"

	"github.com/unkeyed/unkey/go/deploy/metald/internal/backend/types"
)

// checkHost says what of a config this host cannot do. Cloud Hypervisor finds it out at the boot. host is the root of
// the host's files.
func checkHost(host fs.FS, config vmConfig) error {
	if f := config.CPUs.Features; f != nil && f.AMX {
		if err := checkAMX(host); err != nil {
			return err
		}
	}
	if config.Memory.HugePages {
		return checkHugePages(host, config.Memory)
	}
	return nil
}

func checkAMX(host fs.FS) error {
	flags, err := lineOf(host, "proc/cpuinfo", "flags")
	if err != nil {
		return err
	}
	if !slices.Contains(strings.Fields(flags), "amx_tile") {
		return types.FieldErrorf(types.KindPrecondition, string(types.FieldFeatures)+`["amx"]`, "the CPU of this host has no AMX; leave it out")
	}
	return nil
}

// checkHugePages says whether there are as many huge pages as the guest begins with. They are not taken yet: another VM
// may be faster, and then Cloud Hypervisor says so at the boot.
func checkHugePages(host fs.FS, m memoryConfig) error {
	size := m.HugePageSize
	if size == 0 {
		line, err := lineOf(host, "proc/meminfo", "Hugepagesize")
		if err != nil {
			return err
		}
		kib, err := strconv.ParseInt(strings.TrimSuffix(line, " kB"), 10, 40)
		if err != nil || kib <= 0 {
			return fmt.Errorf("the host's size of huge pages is %q", line)
		}
		size = kib << 10
	}
	field := fmt.Sprintf("%s[%q]", types.FieldBacking, backingHugePages)
	if m.Size%size != 0 {
		return types.FieldErrorf(types.KindInvalid, field, "the %d bytes of the guest are no whole number of huge pages of %d MiB", m.Size, size/mebibyte)
	}
	text, err := fs.ReadFile(host, fmt.Sprintf("sys/kernel/mm/hugepages/hugepages-%dkB/free_hugepages", size>>10))
	if err != nil {
		return types.FieldErrorf(types.KindPrecondition, field, "this host has no huge pages of %d MiB", size/mebibyte)
	}
	free, err := strconv.ParseInt(strings.TrimSpace(string(text)), 10, 64)
	if err != nil {
		return fmt.Errorf("the host's free huge pages: %w", err)
	}
	if want := m.Size / size; free < want {
		return types.FieldErrorf(types.KindExhausted, field, "the guest needs %d huge pages of %d MiB, and %d are free on this host; "+
			"vm.nr_hugepages says how many there are", want, size/mebibyte, free)
	}
	return nil
}

// lineOf is the value of the first line "key: value" of a file in /proc.
func lineOf(host fs.FS, name, key string) (string, error) {
	f, err := host.Open(name)
	if err != nil {
		return "", err
	}
	defer f.Close()
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		if k, value, ok := strings.Cut(lines.Text(), ":"); ok && strings.TrimSpace(k) == key {
			return strings.TrimSpace(value), nil
		}
	}
	if err := lines.Err(); err != nil {
		return "", fmt.Errorf("read /%s: %w", name, err)
	}
	return "", fmt.Errorf("/%s says nothing of %s", name, key)
}
