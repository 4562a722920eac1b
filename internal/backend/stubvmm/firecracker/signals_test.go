package firecracker_test

import (
	"syscall"
	"testing"
	"time"
)

// TestSignals is behaviour 31, and what of 24 is about signals.
func TestSignals(t *testing.T) {
	tests := map[string]struct {
		signal syscall.Signal
		code   int
		lines  int // of metrics
	}{
		"HUP":  {syscall.SIGHUP, 156, 2},
		"XFSZ": {syscall.SIGXFSZ, 151, 2},
		"XCPU": {syscall.SIGXCPU, 154, 2},
		"ILL":  {syscall.SIGILL, 157, 2},
		"BUS":  {syscall.SIGBUS, 149, 2},
		"SEGV": {syscall.SIGSEGV, 150, 2},
		"TERM": {syscall.SIGTERM, -1, 1},
		"INT":  {syscall.SIGINT, -1, 1},
		"KILL": {syscall.SIGKILL, -1, 1},
		"QUIT": {syscall.SIGQUIT, -1, 1},
	}
	each(t, func(t *testing.T, exe string) {
		for name, tt := range tests {
			t.Run(name, func(t *testing.T) {
				p := running(t, exe, "")
				must(t, p.cmd.Process.Signal(tt.signal))
				code, by := p.wait(t)
				if code != tt.code || code < 0 && by != tt.signal {
					t.Errorf("code %d, signal %v", code, by)
				}
				if lines := p.metrics(t); len(lines) != tt.lines {
					t.Errorf("%d lines of metrics, want %d", len(lines), tt.lines)
				}
			})
		}
	})
}

// TestBrokenPipeIsCounted is the rest of behaviour 31.
func TestBrokenPipeIsCounted(t *testing.T) {
	each(t, func(t *testing.T, exe string) {
		p := running(t, exe, "")
		must(t, p.cmd.Process.Signal(syscall.SIGPIPE))
		for end := time.Now().Add(patience); ; time.Sleep(time.Millisecond) {
			p.post(t, `PUT /actions {"action_type":"FlushMetrics"}`, "204")
			lines := p.metrics(t)
			if n := lines[len(lines)-1].number(t, "signals", "sigpipe"); n == 1 {
				return
			}
			if time.Now().After(end) {
				t.Fatal("the signal is not counted")
			}
		}
	})
}
