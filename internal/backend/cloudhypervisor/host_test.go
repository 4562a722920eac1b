package cloudhypervisor

import (
	"encoding/binary"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"testing/fstest"

	"github.com/unkeyed/unkey/go/deploy/metald/internal/backend/types"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/kernelimage"
)

func TestWhatTheHostLacks(t *testing.T) {
	file := func(text string) *fstest.MapFile { return &fstest.MapFile{Data: []byte(text)} }
	host := fstest.MapFS{
		"proc/cpuinfo": file("processor\t: 0\nflags\t\t: fpu amx_tile_not\n"),
		"proc/meminfo": file("MemTotal:  1 kB\nHugepagesize:       2048 kB\n"),
		"sys/kernel/mm/hugepages/hugepages-2048kB/free_hugepages": file("64\n"),
	}
	intel := fstest.MapFS{"proc/cpuinfo": file("flags\t\t: fpu amx_tile sse\n")}
	amx := vmConfig{CPUs: cpusConfig{Features: &featuresConfig{AMX: true}}}
	huge := func(mib, page int64) vmConfig {
		return vmConfig{Memory: memoryConfig{Size: mib << 20, HugePages: true, HugePageSize: page << 20}}
	}
	const pages, cpu = `config.memory.backing["hugepages"]`, `config.cpu.features["amx"]`
	for name, c := range map[string]struct {
		host   fstest.MapFS
		config vmConfig
		kind   types.Kind
		field  string // "" for nothing
	}{
		"nothing asked":      {nil, vmConfig{}, 0, ""},
		"no AMX":             {host, amx, types.KindPrecondition, cpu},
		"AMX":                {intel, amx, 0, ""},
		"enough pages":       {host, huge(128, 0), 0, ""},
		"enough of a size":   {host, huge(128, 2), 0, ""},
		"too few":            {host, huge(130, 0), types.KindExhausted, pages},
		"none of that size":  {host, huge(1024, 1024), types.KindPrecondition, pages},
		"no whole number":    {host, huge(127, 0), types.KindInvalid, pages},
		"a host without any": {fstest.MapFS{"proc/meminfo": file("Hugepagesize: 2048 kB\n")}, huge(2, 0), types.KindPrecondition, pages},
	} {
		t.Run(name, func(t *testing.T) {
			err := checkHost(c.host, c.config)
			var e *types.Error
			if c.field == "" && err != nil || c.field != "" && (!errors.As(err, &e) || e.Kind != c.kind || e.Field != c.field) {
				t.Errorf("error %v, want one about %q", err, c.field)
			}
		})
	}
	if err := checkHost(fstest.MapFS{}, huge(2, 0)); err == nil || types.KindOf(err) != types.KindInternal {
		t.Errorf("a host that says nothing: %v", err)
	}
}

// bzImage is the header of one, of a version of Linux.
func bzImage(version string) []byte {
	b := make([]byte, 0x400)
	b[0x1fe], b[0x1ff] = 0x55, 0xaa
	copy(b[0x202:], "HdrS")
	binary.LittleEndian.PutUint16(b[0x20e:], 0x100)
	copy(b[0x300:], version+"\x00")
	return b
}

func TestKernels(t *testing.T) {
	dir := t.TempDir()
	kernel, script := filepath.Join(dir, "vmlinuz"), filepath.Join(dir, "script")
	must(t, os.WriteFile(kernel, bzImage("7.1.2"), 0o600))
	must(t, os.WriteFile(script, []byte("#!/bin/sh\n"), 0o600))
	k := newKernels()
	if got, err := bootable(k, kernel); err != nil || got != kernel {
		t.Errorf("%s, %v", got, err)
	}
	for _, bad := range []string{script, dir, filepath.Join(dir, "nothing"), os.Args[0]} {
		var e *types.Error
		if got, err := bootable(k, bad); !errors.As(err, &e) || e.Kind != types.KindInvalid || e.Field != kernelimage.Field || got != "" {
			t.Errorf("%s: %q, %v", bad, got, err)
		}
	}
}
