package api

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	"connectrpc.com/connect"

	"github.com/unkeyed/unkey/go/deploy/metald/internal/backend/types"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/vm/lifecycle"
)

func TestEveryKindHasACode(t *testing.T) {
	for kind := types.KindInternal; kind <= types.KindCanceled; kind++ {
		if row := codeOf(kind); row.kind != kind {
			t.Errorf("kind %d is not in the table", kind)
		}
	}
}

// Every RPC gives every kind of error its code.
func TestEveryRPCMapsErrors(t *testing.T) {
	s := serve(t, nil)
	s.create(t, "known")
	for rpc, body := range map[string]string{
		"CreateVm": quickStart, "DeleteVm": `{"vm_id":"known"}`, "BootVm": `{"vm_id":"known"}`, "ShutdownVm": `{"vm_id":"known"}`,
		"PauseVm": `{"vm_id":"known"}`, "ResumeVm": `{"vm_id":"known"}`, "RebootVm": `{"vm_id":"known"}`,
	} {
		for _, row := range errorCodes {
			s.vms.fail = types.Errorf(row.kind, "that is so")
			a := s.post(t, rpc, body)
			if a.Code != row.code.String() || fmt.Sprint(a.status) != httpStatus(row.code) {
				t.Errorf("%s: %d %q, want %s %q", rpc, a.status, a.Code, httpStatus(row.code), row.code)
			}
			if len(a.Details) != 1 || a.Details[0].Type != "google.rpc.ErrorInfo" || a.Details[0].Debug.Reason != row.reason {
				t.Errorf("%s: %s", rpc, a.body)
			}
			if said := strings.Contains(a.Message, "that is so"); said == (row.kind == types.KindInternal) {
				t.Errorf("%s: %q", row.code, a.Message)
			}
		}
	}
	s.vms.fail = nil
	for _, rpc := range []string{"DeleteVm", "BootVm", "ShutdownVm", "PauseVm", "ResumeVm", "RebootVm", "GetVmInfo"} {
		a := s.post(t, rpc, `{"vm_id":"none"}`)
		if a.status != 404 || a.Code != "not_found" || a.Details[0].Debug.Metadata["vm_id"] != "none" {
			t.Errorf("%s of no VM: %s", rpc, a.body)
		}
	}
	for _, rpc := range []string{"ShutdownVm", "PauseVm", "ResumeVm", "RebootVm"} {
		a := s.post(t, rpc, `{"vm_id":"known"}`)
		if a.Code != "failed_precondition" || !strings.Contains(a.Message, "CREATED") || a.Details[0].Debug.Metadata["state"] != "VM_STATE_CREATED" {
			t.Errorf("%s of a VM that never ran: %s", rpc, a.body)
		}
	}
	if a := s.post(t, "CreateVm", strings.Replace(quickStart, "{", `{"vm_id":"known",`, 1)); a.status != 200 {
		t.Errorf("the same create again: %s", a.body)
	}
	if a := s.post(t, "CreateVm", strings.Replace(edit(`134217728`, `268435456`), "{", `{"vm_id":"known",`, 1)); a.Code != "already_exists" {
		t.Errorf("another create of the id: %s", a.body)
	}
}

func TestBareErrorsHaveTheirKind(t *testing.T) {
	for _, tc := range []struct {
		err  error
		want types.Kind
	}{
		{errors.New("disk on fire"), types.KindInternal},
		{fmt.Errorf("wait: %w", context.DeadlineExceeded), types.KindDeadline},
		{fmt.Errorf("wait: %w", context.Canceled), types.KindCanceled},
		{&lifecycle.RefusedError{State: lifecycle.Created, Event: lifecycle.Pause}, types.KindPrecondition},
		{types.Errorf(types.KindUnavailable, "ask QMP: %w", context.DeadlineExceeded), types.KindUnavailable},
	} {
		if got := kindOf(tc.err); got != tc.want {
			t.Errorf("%v: kind %d, want %d", tc.err, got, tc.want)
		}
	}
}

func TestErrorsOfAFieldNameItOnce(t *testing.T) {
	f := &faults{vms: newMemVMs()}
	out := f.toConnect(types.FieldErrorf(types.KindInvalid, "config.boot.kernel_path", "there is no such file"), "")
	if out.Code() != connect.CodeInvalidArgument || out.Message() != "config.boot.kernel_path: there is no such file" {
		t.Errorf("%v", out)
	}
	if got := violated(t, out); got != "config.boot.kernel_path" {
		t.Errorf("violated %q", got)
	}
}

func TestAFieldThatIsInTheWayIsNamedToo(t *testing.T) {
	s := serve(t, nil)
	s.create(t, "known")
	s.vms.fail = types.FieldErrorf(types.KindPrecondition, "config.storage[0].path", "this volume is attached to VM a")
	a := s.post(t, "CreateVm", quickStart)
	if a.Code != "failed_precondition" || len(a.Details) != 1 || a.Details[0].Debug.Metadata["field"] != "config.storage[0].path" {
		t.Errorf("%s", a.body)
	}
	s.vms.fail = types.FieldErrorf(types.KindInternal, "config.storage[0].path", "the disk controller melted")
	if a := s.post(t, "CreateVm", quickStart); a.Code != "internal" || strings.Contains(a.body, "melted") {
		t.Errorf("%s", a.body)
	}
}

func TestRedact(t *testing.T) {
	known := []string{"/opt/vm-assets/vmlinux", "/srv/volumes"}
	for text, want := range map[string]string{
		"open /opt/vm-assets/vmlinux: no such file":             "open /opt/vm-assets/vmlinux: no such file",
		"must be in /opt/vm-assets or /srv/volumes.":            "must be in /opt/vm-assets or /srv/volumes.",
		"dial unix /var/lib/metald/run/a/qmp.sock: refused":     "dial unix (a path of the host): refused",
		`start "/usr/bin/qemu-system-x86_64": exit status 1`:    `start "(a path of the host)": exit status 1`,
		"/etc/shadow is no kernel":                              "(a path of the host) is no kernel",
		"file=/srv/x,format=raw and (/srv/y)":                   "file=(a path of the host),format=raw and ((a path of the host))",
		"/opt/vm-assets/vmlinux2 is not /opt/vm-assets/vmlinux": "(a path of the host) is not /opt/vm-assets/vmlinux",
		"100 bytes/s, and/or 3/4 of it":                         "100 bytes/s, and/or 3/4 of it",
	} {
		if got := redact(text, known); got != want {
			t.Errorf("%q\n got %q\nwant %q", text, got, want)
		}
	}
}

func TestErrorsDoNotShowPathsOfTheHost(t *testing.T) {
	s := serve(t, func(c *Config) { c.PublicPaths = []string{"/opt/vm-assets"} })
	s.create(t, "known")
	s.vms.fail = types.Errorf(types.KindUnavailable, "start /usr/bin/qemu with /opt/vm-assets/vmlinux in /var/lib/metald/run/known: it ended")
	a := s.post(t, "BootVm", `{"vm_id":"known"}`)
	if strings.Contains(a.body, "/usr/bin") || strings.Contains(a.body, "/var/lib") || !strings.Contains(a.body, "/opt/vm-assets/vmlinux") {
		t.Errorf("%s", a.body)
	}
	if log := s.log.String(); !strings.Contains(log, "/var/lib/metald/run/known") {
		t.Errorf("the log hides it too: %s", log)
	}
}
