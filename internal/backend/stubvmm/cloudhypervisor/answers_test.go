package cloudhypervisor_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// TestLife is what was said by Cloud Hypervisor 53.0 from the first call to the last.
func TestLife(t *testing.T) {
	each(t, func(t *testing.T, exe string) {
		p := start(t, exe)
		const api = `["Error from API",`
		p.wants(t,
			"PUT /vmm.ping", `400 ["Bad Request"]`,
			"GET /nope", `404 ["Not Found"]`,
			"GET /vm.info", "404 "+api+`"The VM info is not available","VM is not created"]`,
			"GET /vm.counters", "500 "+api+`"The VM info is not available","VM is not running"]`,
			"PUT /vm.boot", "404 "+api+`"The VM could not boot","VM config is missing"]`,
			"PUT /vm.boot {}", `400 ["Bad Request"]`,
			"PUT /vm.create", "400",
			"PUT /vm.create {", `400 ["Failed to deserialize JSON","EOF while parsing an object at line 1 column 1"]`,
			"PUT /vm.delete", "204",
			`PUT /vm.create {"payload":{"kernel":"kernel"},"disks":[{"id":"d","path":"disk","image_type":"Raw"}]}`, "204",
			"PUT /vm.create {}", "500 "+api+`"The VM could not be created","VM is already created"]`,
			"PUT /vm.boot", "204",
			"PUT /vm.boot", "500 "+api+`"The VM could not boot","VM is already created"]`,
			"PUT /vm.pause", "204",
			"PUT /vm.pause", "500 "+api+`"The VM could not be paused","Cannot pause VM","Failed to pause migratable component","Invalid transition: InvalidStateTransition(Paused, Paused)"]`,
			"PUT /vm.resume", "204",
			"PUT /vm.reboot", "204",
			"PUT /vm.shutdown", "204",
			"PUT /vm.shutdown", "500 "+api+`"The VM could not shutdown","VM is not running"]`,
			"PUT /vmm.shutdown", "200")
		if code := p.code(t); code != 0 {
			t.Errorf("it ends with %d", code)
		}
		if _, err := os.Stat(filepath.Join(p.dir, "api")); err == nil {
			t.Error("the socket outlives an orderly end")
		}
		if _, err := os.Stat(filepath.Join(p.dir, "api.lock")); err != nil {
			t.Errorf("the lock's file does not: %v", err)
		}
	})
}

// TestBootThatFails: what is found before there is a VM can be tried again, and what is found later cannot.
func TestBootThatFails(t *testing.T) {
	each(t, func(t *testing.T, exe string) {
		const boot = `500 ["Error from API","The VM could not boot",`
		for config, want := range map[string][2]string{
			`{"payload":{"kernel":"none"}}`:                                              {`"Cannot open kernel file","No such file or directory (os error 2)"]`, boot + `"VM is already created"]`},
			`{"payload":{"kernel":"disk"}}`:                                              {`"Cannot load the kernel into memory","Kernel Loader: failed to load bzImage kernel image: Kernel Loader: Invalid bzImage","Kernel Loader: Invalid bzImage"]`, boot + `"VM is already created"]`},
			`{"payload":{"kernel":"kernel"},"cpus":{"boot_vcpus":2,"max_vcpus":1}}`:      {`"Failed to validate config","Max CPUs (1) lower than boot CPUs (2)"]`, ""},
			`{"payload":{"kernel":"kernel"},"memory":{"size":1000}}`:                     {`"Memory manager error","Memory size is misaligned with default page size or its hugepage size"]`, ""},
			`{"payload":{"kernel":"kernel"},"disks":[{"path":"no","image_type":"Raw"}]}`: {`"Error from device manager","Cannot open disk path","I/O error (path=no op=open)","No such file or directory (os error 2)"]`, "204"},
		} {
			p := start(t, exe)
			again := want[1]
			if again == "" {
				again = boot + want[0]
			}
			p.wants(t, "PUT /vm.create "+config, "204", "PUT /vm.boot", boot+want[0], "PUT /vm.boot", again, "PUT /vm.delete", "204")
		}
	})
}

// TestLockedSocket: the second process on a socket ends.
func TestLockedSocket(t *testing.T) {
	each(t, func(t *testing.T, exe string) {
		p := start(t, exe)
		q := again(t, exe, p.dir)
		if q.ExitCode() != 1 {
			t.Errorf("the second ends with %d", q.ExitCode())
		}
		must(t, p.cmd.Process.Signal(unix.SIGTERM))
		if code := p.code(t); code != 0 {
			t.Errorf("after SIGTERM it ends with %d", code)
		}
	})
}

// TestCounters: the times of a disk that did nothing are at the end of their numbers.
func TestCounters(t *testing.T) {
	each(t, func(t *testing.T, exe string) {
		p := start(t, exe)
		p.wants(t, `PUT /vm.create {"payload":{"kernel":"kernel","cmdline":"stub.boot=1h"},"disks":[{"id":"d","path":"disk","image_type":"Raw"}]}`, "204", "PUT /vm.boot", "204")
		if got := p.ask(t, "GET /vm.counters"); !strings.Contains(got, `"read_latency_min":18446744073709551615`) || !strings.Contains(got, `"write_bytes":0`) {
			t.Errorf("counters: %s", got)
		}
	})
}
