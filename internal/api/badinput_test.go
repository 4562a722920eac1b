package api

import (
	"strings"
	"testing"

	"github.com/unkeyed/unkey/go/deploy/metald/internal/backend/types"
)

// edit is the quick start's request with one piece of it replaced.
func edit(old, new string) string { return strings.Replace(quickStart, old, new, 1) }

// inConfig adds members to the quick start's config.
func inConfig(members string) string { return edit(`{"config":{`, `{"config":{`+members+",") }

func withDisk(members string) string {
	return edit(`"storage":[{"path":"/opt/vm-assets/rootfs.ext4","readonly":false}]`, `"storage":[`+members+`]`)
}

func many(n int, one string) string { return strings.TrimSuffix(strings.Repeat(one+",", n), ",") }

func TestBadInputIsRefusedByNameOfField(t *testing.T) {
	s := serve(t, nil)
	s.create(t, "known")
	const disk = `{"path":"/opt/vm-assets/rootfs.ext4"}`
	for _, tc := range []struct {
		name, rpc, body string
		field           string // in the details; "" where the request as a whole is wrong
		text            string // in the message
	}{
		{"unknown top field", "CreateVm", `{"vcpus":1}`, "vcpus", `unknown field "vcpus"`},
		{"unknown nested field", "CreateVm", edit(`"vcpu_count":1`, `"vcpu_count":1,"vcpus":2`), "config.cpu.vcpus", "unknown field"},
		{"readOnly", "CreateVm", edit(`"readonly"`, `"readOnly"`), "config.storage[0].readOnly", `unknown field "readOnly"`},
		{"both spellings of readonly", "CreateVm", edit(`"readonly":false`, `"readonly":false,"read_only":true`), "config.storage[0].read_only", "duplicate field"},
		{"wrong type", "CreateVm", edit(`"vcpu_count":1`, `"vcpu_count":"one"`), "config.cpu.vcpu_count", "invalid value"},
		{"object for list", "CreateVm", edit(`"storage":[{`, `"storage":{"a":[{`), "config.storage", "unexpected token"},
		{"number too large", "CreateVm", edit(`134217728`, `1e400`), "config.memory.size_bytes", "invalid value"},
		{"second line", "CreateVm", "{\n  \"vm_id\": \"é\", \"größe\": 1}", "größe", "unknown field"},
		{"cut off", "CreateVm", `{"config":{`, "", "unexpected"},
		{"empty body", "CreateVm", ``, "", "the body is empty"},
		{"spaces", "CreateVm", "  \n ", "", "the body is empty"},
		{"null", "CreateVm", `null`, "", "unexpected token null"},
		{"list", "CreateVm", `[]`, "", "unexpected token ["},
		{"string", "CreateVm", `"x"`, "", "unexpected token"},
		{"two objects", "CreateVm", `{} {}`, "", "unexpected token"},
		{"deep", "CreateVm", strings.Repeat(`{"config":`, 100), "config.config", "unknown field"},
		{"deep lists", "CreateVm", strings.Repeat(`[`, 10000), "", "unexpected token"},
		{"no config", "CreateVm", `{}`, "config", "required"},
		{"null config", "CreateVm", `{"config":null}`, "config", "required"},
		{"no cpu, memory, boot", "CreateVm", `{"config":{}}`, "config.cpu config.memory config.boot", "required"},

		{"no vcpus", "CreateVm", edit(`"vcpu_count":1`, `"vcpu_count":0`), "config.cpu.vcpu_count", "greater than or equal to 1"},
		{"negative vcpus", "CreateVm", edit(`"vcpu_count":1`, `"vcpu_count":-1`), "config.cpu.vcpu_count", ""},
		{"a million vcpus", "CreateVm", edit(`"vcpu_count":1`, `"vcpu_count":1000000`), "config.cpu.vcpu_count", "256"},
		{"more vcpus than the backend has", "CreateVm", edit(`"vcpu_count":1`, `"vcpu_count":65`), "config.cpu.vcpu_count", "more than the 64 that fake can have"},
		{"max below count", "CreateVm", edit(`"vcpu_count":1`, `"vcpu_count":4,"max_vcpu_count":2`), "config.cpu.max_vcpu_count", "at least vcpu_count"},
		{"topology product", "CreateVm", edit(`"vcpu_count":1`, `"vcpu_count":4,"topology":{"sockets":1,"cores_per_socket":3,"threads_per_core":1}`), "config.cpu.topology", "must be max_vcpu_count"},
		{"topology zero", "CreateVm", edit(`"vcpu_count":1`, `"vcpu_count":1,"topology":{"sockets":1,"cores_per_socket":1}`), "config.cpu.topology.threads_per_core", ""},
		{"topology overflow", "CreateVm", edit(`"vcpu_count":1`, `"vcpu_count":1,"topology":{"sockets":65536,"cores_per_socket":65536,"threads_per_core":1}`), "config.cpu.topology.sockets config.cpu.topology.cores_per_socket", ""},
		{"no memory", "CreateVm", edit(`134217728`, `0`), "config.memory.size_bytes", ""},
		{"negative memory", "CreateVm", edit(`134217728`, `-134217728`), "config.memory.size_bytes", ""},
		{"2^62 memory", "CreateVm", edit(`134217728`, `"4611686018427387904"`), "config.memory.size_bytes", ""},
		{"odd memory", "CreateVm", edit(`134217728`, `134217729`), "config.memory.size_bytes", "multiple of 1048576"},
		{"less memory than the backend needs", "CreateVm", edit(`134217728`, `1048576`), "config.memory.size_bytes", "a guest needs on fake"},
		{"max memory below size", "CreateVm", edit(`134217728`, `134217728,"max_size_bytes":1048576`), "config.memory.max_size_bytes", "at least size_bytes"},

		{"relative kernel", "CreateVm", edit(`/opt/vm-assets/vmlinux`, `vmlinux`), "config.boot.kernel_path", ""},
		{"no kernel", "CreateVm", edit(`/opt/vm-assets/vmlinux`, ``), "config.boot.kernel_path", "required"},
		{"dotdot in kernel", "CreateVm", edit(`/opt/vm-assets/vmlinux`, `/opt/vm-assets/../../etc/shadow`), "config.boot.kernel_path", ".."},
		{"newline in kernel path", "CreateVm", edit(`vmlinux`, `vm\nlinux`), "config.boot.kernel_path", ""},
		{"dotdot in initrd", "CreateVm", edit(`"kernel_args"`, `"initrd_path":"/a/..","kernel_args"`), "config.boot.initrd_path", ".."},
		{"newline in args", "CreateVm", edit(`panic=1`, `panic=1\ninit=/bin/sh`), "config.boot.kernel_args", ""},
		{"NUL in args", "CreateVm", edit(`panic=1`, `\u0000`), "config.boot.kernel_args", ""},
		{"umlaut in args", "CreateVm", edit(`panic=1`, `ä`), "config.boot.kernel_args", ""},
		{"long args", "CreateVm", edit(`panic=1`, strings.Repeat("a", 2000)), "config.boot.kernel_args", "2000"},

		{"relative disk", "CreateVm", withDisk(`{"path":"rootfs.ext4"}`), "config.storage[0].path", ""},
		{"dotdot in disk", "CreateVm", withDisk(`{"path":"/opt/vm-assets/../x"}`), "config.storage[0].path", ".."},
		{"disk without path", "CreateVm", withDisk(disk + `,{"id":"b"}`), "config.storage[1].path", "required"},
		{"two root disks", "CreateVm", withDisk(`{"path":"/a","is_root_device":true},{"path":"/b","is_root_device":true}`), "config.storage", "is_root_device"},
		{"two disks of one id", "CreateVm", withDisk(`{"id":"a","path":"/a"},{"id":"a","path":"/b"}`), "config.storage", "same id"},
		{"dotdot in disk id", "CreateVm", withDisk(`{"id":"../x","path":"/a"}`), "config.storage[0].id", ""},
		{"17 disks", "CreateVm", withDisk(many(17, disk)), "config.storage", "16"},
		{"more disks than the backend attaches", "CreateVm", withDisk(many(9, disk)), "config.storage", "more than the 8"},
		{"option key", "CreateVm", withDisk(`{"path":"/a","options":{"a b":"c"}}`), `config.storage[0].options["a b"]`, ""},

		{"multicast MAC", "CreateVm", inConfig(`"network":[{"mac_address":"01:00:00:00:00:01"}]`), "config.network[0].mac_address", ""},
		{"zero MAC", "CreateVm", inConfig(`"network":[{"mac_address":"00:00:00:00:00:00"}]`), "config.network[0].mac_address", "all-zero"},
		{"MAC twice", "CreateVm", inConfig(`"network":[{"mac_address":"02:00:00:00:00:AB"},{"mac_address":"02:00:00:00:00:ab"}]`), "config.network", "same mac_address"},
		{"path as tap", "CreateVm", inConfig(`"network":[{"tap_device":"../tap0"}]`), "config.network[0].tap_device", ""},
		{"long tap", "CreateVm", inConfig(`"network":[{"tap_device":"tap4567890123456"}]`), "config.network[0].tap_device", ""},
		{"percent tap", "CreateVm", inConfig(`"network":[{"tap_device":"tap%d"}]`), "config.network[0].tap_device", ""},
		{"9 networks", "CreateVm", inConfig(`"network":[` + many(9, `{}`) + `]`), "config.network", ""},

		{"console into a file", "CreateVm", inConfig(`"console":{"enabled":true,"output":"/etc/cron.d/x"}`), "config.console.output", ""},
		{"console from a file", "CreateVm", inConfig(`"console":{"enabled":true,"input":"/etc/shadow"}`), "config.console.input", ""},
		{"console type", "CreateVm", inConfig(`"console":{"enabled":true,"console_type":"vga"}`), "config.console.console_type", ""},
		{"log of a console that is off", "CreateVm", inConfig(`"console":{"output":"log"}`), "config.console.output", "set enabled"},
		{"65 notes", "CreateVm", inConfig(`"metadata":{` + numbered(65) + `}`), "config.metadata", "64"},
		{"large note", "CreateVm", inConfig(`"metadata":{"a":"` + strings.Repeat("b", 1025) + `"}`), `config.metadata["a"]`, ""},
		{"33 features", "CreateVm", edit(`"vcpu_count":1`, `"vcpu_count":1,"features":{`+numbered(33)+`}`), "config.cpu.features", "32"},

		{"dotdot in id", "CreateVm", edit(`{"config"`, `{"vm_id":"../x","config"`), "vm_id", ""},
		{"upper case id", "CreateVm", edit(`{"config"`, `{"vm_id":"VM","config"`), "vm_id", ""},
		{"id ends in dash", "CreateVm", edit(`{"config"`, `{"vm_id":"vm-","config"`), "vm_id", ""},
		{"long id", "CreateVm", edit(`{"config"`, `{"vm_id":"`+strings.Repeat("a", 65)+`","config"`), "vm_id", ""},
		{"id with newline", "BootVm", `{"vm_id":"known\n"}`, "vm_id", ""},
		{"no id", "BootVm", `{}`, "vm_id", "required"},
		{"dotdot", "GetVmInfo", `{"vm_id":"../../etc"}`, "vm_id", ""},
		{"dotdot", "DeleteVm", `{"vm_id":".."}`, "vm_id", ""},
		{"slash", "PauseVm", `{"vm_id":"a/b"}`, "vm_id", ""},
		{"dash", "ResumeVm", `{"vm_id":"-rf"}`, "vm_id", ""},
		{"space", "RebootVm", `{"vm_id":" "}`, "vm_id", ""},
		{"negative timeout", "ShutdownVm", `{"vm_id":"known","timeout_seconds":-1}`, "timeout_seconds", ""},
		{"timeout beyond an hour", "ShutdownVm", `{"vm_id":"known","timeout_seconds":3601}`, "timeout_seconds", "3600"},
		{"negative page", "ListVms", `{"page_size":-1}`, "page_size", ""},
		{"large page", "ListVms", `{"page_size":1001}`, "page_size", "1000"},
		{"long token", "ListVms", `{"page_token":"` + strings.Repeat("a", 257) + `"}`, "page_token", ""},
		{"made-up token", "ListVms", `{"page_token":"AQAAAAAAAAAAAQ"}`, "page_token", "next_page_token"},
		{"unspecified state", "ListVms", `{"state_filter":["VM_STATE_UNSPECIFIED"]}`, "state_filter[0]", ""},
		{"unknown state", "ListVms", `{"state_filter":[9]}`, "state_filter[0]", ""},
		{"unknown state's name", "ListVms", `{"state_filter":["VM_STATE_LOST"]}`, "state_filter[0]", "invalid value"},
		{"state twice", "ListVms", `{"state_filter":[1,1]}`, "state_filter", "unique"},
	} {
		t.Run(tc.rpc+"/"+tc.name, func(t *testing.T) {
			before := s.vms.lastAsked()
			a := s.post(t, tc.rpc, tc.body)
			if a.status != 400 || a.Code != "invalid_argument" {
				t.Fatalf("status %d, code %q, want 400 invalid_argument: %s", a.status, a.Code, a.body)
			}
			if got := a.fields(); got != tc.field {
				t.Errorf("fields %q, want %q: %s", got, tc.field, a.Message)
			}
			if !strings.Contains(a.Message, tc.text) {
				t.Errorf("message %q does not say %q", a.Message, tc.text)
			}
			if strings.ContainsRune(a.Message, '\u00a0') {
				t.Errorf("message %q has a space that is none", a.Message)
			}
			if after := s.vms.lastAsked(); after != before {
				t.Errorf("the manager was asked to %s", after)
			}
		})
	}
}

func numbered(n int) string {
	var out []string
	for i := range n {
		out = append(out, `"k`+string(rune('0'+i/10))+string(rune('0'+i%10))+`":"v"`)
	}
	return strings.Join(out, ",")
}

func TestWhatTheBackendCannotDoIsUnimplemented(t *testing.T) {
	s := serve(t, nil)
	for _, tc := range []struct{ name, body, field, text string }{
		{"topology", edit(`"vcpu_count":1`, `"vcpu_count":1,"topology":{"sockets":1,"cores_per_socket":1,"threads_per_core":1}`),
			"config.cpu.topology", "not supported by the backend fake"},
		{"interface", withDisk(`{"path":"/a","interface_type":"nvme"}`), "config.storage[0].interface_type", "it takes virtio-blk"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			a := s.post(t, "CreateVm", tc.body)
			if a.status != 501 || a.Code != "unimplemented" || a.fields() != tc.field || !strings.Contains(a.Message, tc.text) {
				t.Fatalf("status %d, code %q, fields %q: %s", a.status, a.Code, a.fields(), a.Message)
			}
		})
	}
	if got := s.vms.lastAsked(); got != "" {
		t.Errorf("the manager was asked to %s", got)
	}
}

func TestAWrongNumberBeatsAnUnsupportedField(t *testing.T) {
	errs := fieldErrors{types.FieldErrorf(types.KindUnsupported, "a", "x"), types.FieldErrorf(types.KindInvalid, "b", "y")}
	if kindOf(errs) != types.KindInvalid {
		t.Errorf("kind %v", kindOf(errs))
	}
}
