package firecracker

import (
	"syscall"

	"github.com/unkeyed/unkey/go/deploy/metald/internal/backend/types"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/vmmprocess"
)

// ending is everything that is known of the end of a Firecracker.
type ending struct {
	status  syscall.WaitStatus
	known   bool   // status is
	words   string // the end of what it said
	asked   bool   // the guest had been asked to power off
	off     bool   // the guest's kernel said that it was off, and stood still; metald then ended Firecracker
	panic   string // the line by which the guest's kernel said that it panicked; "" if it did not
	forced  bool   // metald ended it
	started bool   // the guest ran
}

// The exit codes of Firecracker (src/vmm/src/lib.rs, FcExitCode) that say which signal it caught.
var caught = map[int]string{
	148: "it used a system call that its filter forbids", 149: "it met a bus error", 150: "it met a segmentation fault",
	151: "a file that it wrote to became too large", 154: "it used up its CPU time", 156: "its terminal hung up",
	157: "it met an illegal instruction",
}

// exit says how a Firecracker ended. What the guest did comes first: metald may have been about to end it anyway.
func (e ending) exit() types.Exit {
	x := types.Exit{Code: -1}
	if e.known {
		if x.Code = e.status.ExitStatus(); e.status.Signaled() {
			x.Signal = int(e.status.Signal())
		}
	}
	switch {
	case e.off:
		x.Reason = types.ReasonGuestShutdown
	case x.Code == 0 && e.started && e.panic != "":
		x.Reason, x.Detail = types.ReasonGuestPanic, e.panic
	case x.Code == 0 && e.started && e.asked:
		x.Reason = types.ReasonGuestShutdown // Firecracker has no power button: the guest was asked by Ctrl-Alt-Del
	case x.Code == 0 && e.started:
		x.Reason = types.ReasonGuestReset
	case x.Code > 0:
		x.Reason, x.Detail = types.ReasonCrashed, e.words
		if x.Detail == "" {
			x.Detail = caught[x.Code]
		}
	case e.forced:
		x.Reason = types.ReasonForced
	case vmmprocess.Crashed(syscall.Signal(x.Signal)):
		x.Reason, x.Detail = types.ReasonCrashed, e.words
	case x.Signal != 0:
		x.Reason = types.ReasonKilled
	default:
		x.Reason, x.Detail = types.ReasonUnobserved, "Firecracker ended without saying why"
	}
	return x
}
