package cloudhypervisor

import (
	"cmp"
	"errors"
	"slices"
	"strings"
	"syscall"

	"github.com/unkeyed/unkey/go/deploy/metald/internal/backend/types"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/kernelimage"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/vmmprocess"
)

// ending is everything that is known of the end of a Cloud Hypervisor.
type ending struct {
	status    syscall.WaitStatus
	known     bool   // status is
	words     string // the end of what it said
	panicked  bool   // the guest's kernel said so, to its pvpanic device or on the console
	panicLine string // what it said on the console; "" if nothing
	reset     bool   // the guest restarted, and metald then ended its VMM
	removed   bool   // somebody took the guest away by the API, and metald then ended its VMM
	refusal   string // what it said to a boot that it refused, for which metald then ended it; "" if it did not
	forced    bool   // metald ended it because it was asked to
	started   bool   // the guest ran
}

// exit says how a Cloud Hypervisor ended. What the guest did comes first: metald may have been about to end it anyway.
//
// One that ends in good order does so because its guest powered off, because of an error that it tells on its standard
// error and in no other way, or because somebody else on the host sent it a SIGTERM, which looks as the first.
func (e ending) exit() types.Exit {
	x := types.Exit{Code: -1}
	if e.known {
		if x.Code = e.status.ExitStatus(); e.status.Signaled() {
			x.Signal = int(e.status.Signal())
		}
	}
	switch {
	case e.reset && e.panicked, x.Code == 0 && e.started && e.panicked:
		x.Reason, x.Detail = types.ReasonGuestPanic, cmp.Or(e.panicLine, "the guest's kernel said so to its pvpanic device")
	case e.reset:
		x.Reason = types.ReasonGuestReset
	case e.refusal != "" && x.Signal != 0:
		x.Reason, x.Detail = types.ReasonCrashed, e.refusal
	case x.Code == 0 && e.started && e.broke(), x.Code > 0:
		x.Reason, x.Detail = types.ReasonCrashed, e.words
	case x.Code == 0 && e.started:
		x.Reason = types.ReasonGuestShutdown
	case e.forced:
		x.Reason = types.ReasonForced
	case e.removed:
		x.Reason, x.Detail = types.ReasonKilled, "another client of Cloud Hypervisor's API ended the guest"
	case vmmprocess.Crashed(syscall.Signal(x.Signal)):
		x.Reason, x.Detail = types.ReasonCrashed, e.words
	case x.Signal != 0:
		x.Reason = types.ReasonKilled
	default:
		x.Reason, x.Detail = types.ReasonUnobserved, "Cloud Hypervisor ended without saying why"
	}
	return x
}

// lastErrors are what Cloud Hypervisor 53.0 says when it ends in good order because something is wrong.
var lastErrors = []string{"VCPU generated error", "thread panicked", "Error applying "}

// broke says whether that was the end.
func (e ending) broke() bool {
	return slices.ContainsFunc(lastErrors, func(text string) bool { return strings.Contains(e.words, text) })
}

// refusals are what Cloud Hypervisor 53.0 says of a boot that it refuses, as what they are to the client. A text that
// isn't known is passed on as it is.
var refusals = []struct {
	text  string
	kind  types.Kind
	field string
}{
	{"locking disk images", types.KindPrecondition, "config.storage"},
	{"already locked", types.KindPrecondition, "config.storage"},
	{"PVH header", types.KindInvalid, kernelimage.Field},
	{"load the kernel", types.KindInvalid, kernelimage.Field},
	{"the initramfs", types.KindInvalid, "config.boot.initrd_path"},
	{"validate config", types.KindInvalid, "config"},
	{"Cannot allocate memory", types.KindExhausted, "config.memory.size_bytes"},
}

// refusedBoot is a refusal to boot, as an error for the person who asked; nil for another error.
func refusedBoot(err error) error {
	var f *fault
	if !errors.As(err, &f) {
		return nil
	}
	for _, r := range refusals {
		if strings.Contains(f.Error(), r.text) {
			return types.FieldErrorf(r.kind, r.field, "%w", err)
		}
	}
	return nil
}
