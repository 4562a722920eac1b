package cloudhypervisor

import (
	"syscall"
	"testing"

	"github.com/unkeyed/unkey/go/deploy/metald/internal/backend/types"
)

func TestHowItEnded(t *testing.T) {
	const killed, code1 = syscall.WaitStatus(9), syscall.WaitStatus(1 << 8)
	ran := func(change func(*ending)) ending {
		e := ending{known: true, started: true}
		change(&e)
		return e
	}
	for name, c := range map[string]struct {
		e    ending
		want string
	}{
		"power off":              {ran(func(e *ending) {}), types.ReasonGuestShutdown},
		"power off, then forced": {ran(func(e *ending) { e.forced = true }), types.ReasonGuestShutdown},
		"an error of KVM": {ran(func(e *ending) {
			e.words = "cloud-hypervisor:   2.277934s: <vcpu0> ERROR:vmm/src/cpu.rs:1460 -- VCPU generated error: VcpuRun(Failed to run vcpu"
		}), types.ReasonCrashed},
		"a warning and power off": {ran(func(e *ending) { e.words = "WARN:vmm/src/cpu.rs:268 -- Kernel lacks CONFIG_SCHED_CORE support" }), types.ReasonGuestShutdown},
		"reset":                   {ran(func(e *ending) { e.reset, e.status = true, killed }), types.ReasonGuestReset},
		"a reset that failed":     {ran(func(e *ending) { e.reset, e.status = true, code1 }), types.ReasonGuestReset},
		"panic and reset":         {ran(func(e *ending) { e.reset, e.panicked, e.status = true, true, killed }), types.ReasonGuestPanic},
		"panic, then forced":      {ran(func(e *ending) { e.forced, e.panicked, e.status = true, true, killed }), types.ReasonForced},
		"forced":                  {ran(func(e *ending) { e.forced, e.status = true, killed }), types.ReasonForced},
		"killed":                  {ran(func(e *ending) { e.status = killed }), types.ReasonKilled},
		"taken away":              {ran(func(e *ending) { e.removed, e.status = true, killed }), types.ReasonKilled},
		"a filter":                {ran(func(e *ending) { e.status = syscall.WaitStatus(syscall.SIGSYS) }), types.ReasonCrashed},
		"exit code":               {ran(func(e *ending) { e.status = code1 }), types.ReasonCrashed},
		"before the boot":         {ending{known: true}, types.ReasonUnobserved},
		"nobody saw it":           {ending{started: true}, types.ReasonUnobserved},
	} {
		if x := c.e.exit(); x.Reason != c.want {
			t.Errorf("%s: %+v, want %s", name, x, c.want)
		}
	}
}
