package api

import (
	"strings"
	"testing"
)

// createOn is the quick start's request for a VM on a backend; config replaces what the quick start has for cpu.
func createOn(id, backend, cpu string) string {
	body := strings.Replace(quickStart, `{"vcpu_count":1}`, cpu, 1)
	return strings.Replace(body, "{", `{"vm_id":"`+id+`","backend":"`+backend+`",`, 1)
}

func TestCreateOnABackendByName(t *testing.T) {
	s := serve(t, nil)
	const small = `{"vcpu_count":1}`
	for id, backend := range map[string]string{"default": "", "named": "fake", "other": "spartan"} {
		s.must(t, "CreateVm", createOn(id, backend, small))
		if got := s.vms.lastAsked(); got != "create"+backend {
			t.Errorf("the manager was asked %q", got)
		}
	}
	want := map[string]string{"default": "fake", "named": "fake", "other": "spartan"}
	for _, entry := range s.must(t, "ListVms", `{}`)["vms"].([]any) {
		entry := entry.(map[string]any)
		if id := entry["vmId"].(string); entry["backend"] != want[id] {
			t.Errorf("the list has %s on %v, not on %s", id, entry["backend"], want[id])
		}
	}
	for id, backend := range want {
		info := s.must(t, "GetVmInfo", `{"vm_id":"`+id+`"}`)["backendInfo"].(map[string]any)
		if info["backend"] != backend {
			t.Errorf("backend_info of %s: %v", id, info)
		}
	}
}

// What is refused is what the backend that was asked for cannot do, whatever the default can.
func TestRefusalsAreThoseOfTheChosenBackend(t *testing.T) {
	s := serve(t, nil)
	const hotplug = `{"vcpu_count":1,"max_vcpu_count":4}`
	s.must(t, "CreateVm", createOn("hot", "", hotplug))
	for _, tt := range []struct{ backend, cpu, code, field, says string }{
		{"spartan", hotplug, "unimplemented", "config.cpu.max_vcpu_count", "not supported by the backend spartan"},
		{"spartan", `{"vcpu_count":3}`, "invalid_argument", "config.cpu.vcpu_count", "more than the 2 that spartan can have"},
		{"xen", `{"vcpu_count":1}`, "invalid_argument", "backend", `"xen" is none of fake, spartan`},
		{"FAKE", `{"vcpu_count":1}`, "invalid_argument", "backend", `"FAKE" is none of fake, spartan`},
		{"auto", `{"vcpu_count":1}`, "invalid_argument", "backend", `"auto" is none of fake, spartan`},
		{strings.Repeat("x", 65), `{"vcpu_count":1}`, "invalid_argument", "backend", "64"},
	} {
		a := s.post(t, "CreateVm", createOn("refused", tt.backend, tt.cpu))
		if a.Code != tt.code || a.fields() != tt.field || !strings.Contains(a.Message, tt.says) {
			t.Errorf("%s, %s: %s %q %s; want %s of %s: …%s…", tt.backend, tt.cpu, a.Code, a.fields(), a.Message, tt.code, tt.field, tt.says)
		}
	}
}
