package qemu

import (
	"syscall"
	"testing"

	"github.com/unkeyed/unkey/go/deploy/metald/internal/backend/types"
)

func signaled(s syscall.Signal) syscall.WaitStatus { return syscall.WaitStatus(s) }
func exited(code int) syscall.WaitStatus           { return syscall.WaitStatus(code << 8) }

func TestWhyItEnded(t *testing.T) {
	for _, c := range []struct {
		ending ending
		want   types.Exit
	}{
		{ending{shutdown: shutdownGuest, known: true}, types.Exit{Reason: types.ReasonGuestShutdown}},
		{ending{shutdown: shutdownGuest}, types.Exit{Reason: types.ReasonGuestShutdown, Code: -1}},
		{ending{shutdown: shutdownGuest, forced: true, known: true}, types.Exit{Reason: types.ReasonGuestShutdown}},
		{ending{shutdown: shutdownGuest, panicked: true, panicLine: "x", known: true}, types.Exit{Reason: types.ReasonGuestShutdown}},
		{ending{shutdown: shutdownReset, known: true}, types.Exit{Reason: types.ReasonGuestReset}},
		{ending{shutdown: shutdownReset, panicked: true, panicLine: "x", known: true}, types.Exit{Reason: types.ReasonGuestPanic, Detail: "x"}},
		{ending{shutdown: shutdownReset, panicked: true, known: true}, types.Exit{Reason: types.ReasonGuestPanic}},
		{ending{shutdown: shutdownQuit, forced: true, known: true}, types.Exit{Reason: types.ReasonForced}},
		{ending{shutdown: shutdownQuit, known: true}, types.Exit{Reason: types.ReasonForced}},
		{ending{shutdown: shutdownSignal, known: true, stderr: "t"}, types.Exit{Reason: types.ReasonKilled, Detail: "t"}},
		{ending{forced: true, status: signaled(9), known: true}, types.Exit{Reason: types.ReasonForced, Code: -1, Signal: 9}},
		{ending{forced: true, broken: true, known: true}, types.Exit{Reason: types.ReasonCrashed, Detail: "QEMU met an internal error"}},
		{ending{status: signaled(9), known: true}, types.Exit{Reason: types.ReasonKilled, Code: -1, Signal: 9}},
		{ending{status: signaled(6), known: true, stderr: "assert"}, types.Exit{Reason: types.ReasonCrashed, Detail: "assert", Code: -1, Signal: 6}},
		{ending{status: exited(1), known: true, stderr: "no"}, types.Exit{Reason: types.ReasonCrashed, Detail: "no", Code: 1}},
		{ending{status: exited(0), known: true}, types.Exit{Reason: types.ReasonUnobserved, Detail: "QEMU ended without saying why"}},
		{ending{}, types.Exit{Reason: types.ReasonUnobserved, Detail: "QEMU ended without saying why", Code: -1}},
	} {
		if got := c.ending.exit(); got != c.want {
			t.Errorf("%+v is %+v, want %+v", c.ending, got, c.want)
		}
	}
}
