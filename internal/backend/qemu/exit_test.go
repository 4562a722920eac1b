package qemu

import (
	"bytes"
	"strings"
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

func TestPanicOnTheConsole(t *testing.T) {
	const text = "boot\r\n[    1.0] Kernel panic - not syncing: VFS: no root\r\n[    1.1] CPU: 0\r\n"
	for size := 1; size <= len(text); size++ { // however it is cut
		var out bytes.Buffer
		w := consoleWatch{out: &out}
		for rest := []byte(text); len(rest) > 0; {
			n := min(size, len(rest))
			if wrote, err := w.Write(rest[:n]); wrote != n || err != nil {
				t.Fatal(wrote, err)
			}
			rest = rest[n:]
		}
		if line, yes := w.panicked(); !yes || line != "Kernel panic - not syncing: VFS: no root" {
			t.Fatalf("in pieces of %d: %q, %v", size, line, yes)
		}
		if out.String() != text {
			t.Fatalf("in pieces of %d it became %q", size, &out)
		}
	}
}

func TestNoPanicOnTheConsole(t *testing.T) {
	for name, text := range map[string]string{
		"nothing":   "",
		"half":      "Kernel panic - not",
		"long ago":  "Kernel panic - not syncing: x\n" + strings.Repeat("a guest that lives\n", 2000),
		"quietness": strings.Repeat("x", 1000),
	} {
		w := consoleWatch{}
		_, _ = w.Write([]byte(text))
		if line, yes := w.panicked(); yes {
			t.Errorf("%s: %q", name, line)
		}
	}
	w := consoleWatch{}
	_, _ = w.Write([]byte("Kernel panic - not syncing: " + strings.Repeat("long", 1000)))
	if line, yes := w.panicked(); !yes || len(line) != maxPanicLine {
		t.Errorf("a line of %d bytes", len(line))
	}
}

func TestTheEndOfStderrIsKept(t *testing.T) {
	for size := 1; size < 3*maxStderr; size = size*3 + 1 { // however it is cut
		var w tailWriter
		if got := w.String(); got != "" {
			t.Errorf("of nothing: %q", got)
		}
		for _, text := range []string{"qemu: one\nqemu: two\n", strings.Repeat("\xff", 5000) + "\nend\n"} {
			for rest := text; rest != ""; {
				n, err := w.Write([]byte(rest[:min(size, len(rest))]))
				if err != nil {
					t.Fatal(err)
				}
				rest = rest[n:]
			}
			got, want := w.String(), "qemu: one; qemu: two"
			if len(text) > maxStderr {
				want = "; end"
			}
			if len(got) > maxStderr || !strings.HasSuffix(got, want) {
				t.Errorf("%d bytes: %.40q, want %q", len(got), got, want)
			}
		}
	}
}
