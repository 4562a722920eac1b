package qemu

import (
	"cmp"
	"strings"
	"syscall"

	"github.com/unkeyed/unkey/go/deploy/metald/internal/backend/types"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/kernelimage"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/vmmprocess"
)

// ending is everything that is known of the end of a QEMU.
type ending struct {
	shutdown  string // reason of its last SHUTDOWN event; "" if there was none
	panicked  bool   // the guest's kernel said so, to QEMU or on the console
	panicLine string // what it said on the console; "" if nothing
	found     bool   // its guest had ended when metald came back: not how
	forced    bool   // metald ended it
	broken    bool   // it had met an internal error, after which its guest cannot go on
	status    syscall.WaitStatus
	known     bool // status is
	stderr    string
}

// The reasons of QEMU's SHUTDOWN event that can come here.
const (
	shutdownGuest  = "guest-shutdown"
	shutdownReset  = "guest-reset"
	shutdownPanic  = "guest-panic"
	shutdownQuit   = "host-qmp-quit"
	shutdownSignal = "host-signal"
)

// exit says how a QEMU ended. What the guest did comes first: metald may have been about to end it anyway.
func (e ending) exit() types.Exit {
	x := types.Exit{Code: -1}
	if e.known {
		if x.Code = e.status.ExitStatus(); e.status.Signaled() {
			x.Signal = int(e.status.Signal())
		}
	}
	switch {
	case x.Code > 0:
		x.Reason, x.Detail = types.ReasonCrashed, e.stderr
	case e.shutdown == shutdownGuest:
		x.Reason = types.ReasonGuestShutdown
	case e.shutdown == shutdownPanic, e.shutdown == shutdownReset && e.panicked:
		x.Reason, x.Detail = types.ReasonGuestPanic, e.panicLine
	case e.shutdown == shutdownReset:
		x.Reason = types.ReasonGuestReset
	case e.broken:
		x.Reason, x.Detail = types.ReasonCrashed, cmp.Or(e.stderr, "QEMU met an internal error")
	case e.found:
		x.Reason, x.Detail = types.ReasonUnobserved, "its guest ended while metald could not watch it"
	case e.forced, e.shutdown == shutdownQuit:
		x.Reason = types.ReasonForced
	case e.shutdown == shutdownSignal:
		x.Reason, x.Detail = types.ReasonKilled, e.stderr
	case vmmprocess.Crashed(syscall.Signal(x.Signal)):
		x.Reason, x.Detail = types.ReasonCrashed, e.stderr
	case x.Signal != 0:
		x.Reason = types.ReasonKilled
	default:
		x.Reason, x.Detail = types.ReasonUnobserved, "QEMU ended without saying why"
	}
	return x
}

// refusal is what a QEMU that refused to start says, as an error for the person who asked. The texts are those of
// QEMU 6.2 to 10; one that isn't known is passed on as it is.
func refusal(stderr string) error {
	for _, r := range refusals {
		if strings.Contains(stderr, r.text) {
			return types.FieldErrorf(r.kind, r.field, "QEMU refused it: %s", stderr)
		}
	}
	if stderr == "" {
		stderr = "it said nothing"
	}
	return types.Errorf(types.KindUnavailable, "QEMU ended before it could be talked to: %s", stderr)
}

var refusals = []struct {
	text  string
	kind  types.Kind
	field string
}{
	{"invalid kernel header", types.KindInvalid, kernelimage.Field},
	{"without PVH ELF Note", types.KindInvalid, kernelimage.Field},
	{"could not load kernel", types.KindInvalid, kernelimage.Field},
	{"initrd is too large", types.KindInvalid, "config.boot.initrd_path"},
	{"could not load initrd", types.KindInvalid, "config.boot.initrd_path"},
	{"support requested feature", types.KindInvalid, "config.cpu.features"},
	{"cannot set up guest memory", types.KindExhausted, "config.memory.size_bytes"},
	{`" lock`, types.KindPrecondition, "config.storage"},
	{"X2APIC API support", types.KindUnsupported, "config.cpu.vcpu_count"}, // above 255 vCPUs, without KVM
	{"KVM", types.KindPrecondition, ""},
}
