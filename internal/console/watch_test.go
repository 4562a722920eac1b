package console

import (
	"bytes"
	"strings"
	"testing"
)

func TestPanicOnTheConsole(t *testing.T) {
	const text = "boot\r\n[    1.0] Kernel panic - not syncing: VFS: no root\r\n[    1.1] CPU: 0\r\n"
	for size := 1; size <= len(text); size++ { // however it is cut
		var out bytes.Buffer
		w := Watch{Out: &out}
		for rest := []byte(text); len(rest) > 0; {
			n := min(size, len(rest))
			if wrote, err := w.Write(rest[:n]); wrote != n || err != nil {
				t.Fatal(wrote, err)
			}
			rest = rest[n:]
		}
		if line, yes := w.Panicked(); !yes || line != "Kernel panic - not syncing: VFS: no root" {
			t.Fatalf("in pieces of %d: %q, %v", size, line, yes)
		}
		if out.String() != text {
			t.Fatalf("in pieces of %d it became %q", size, &out)
		}
	}
}

// A kernel that is not to restart says the words again where its trace ends.
func TestThePanicsLineIsTheSameAtItsEnd(t *testing.T) {
	w := Watch{}
	_, _ = w.Write([]byte("Kernel panic - not syncing: x\nCPU: 0\n---[ end Kernel panic - not syncing: x ]---\n"))
	if line, yes := w.Panicked(); !yes || line != "Kernel panic - not syncing: x" {
		t.Errorf("%q, %v", line, yes)
	}
}

func TestNoPanicOnTheConsole(t *testing.T) {
	for name, text := range map[string]string{
		"nothing":   "",
		"half":      "Kernel panic - not",
		"long ago":  "Kernel panic - not syncing: x\n" + strings.Repeat("a guest that lives\n", 2000),
		"quietness": strings.Repeat("x", 1000),
	} {
		w := Watch{}
		_, _ = w.Write([]byte(text))
		if line, yes := w.Panicked(); yes {
			t.Errorf("%s: %q", name, line)
		}
	}
	w := Watch{}
	_, _ = w.Write([]byte("Kernel panic - not syncing: " + strings.Repeat("long", 1000)))
	if line, yes := w.Panicked(); !yes || len(line) != maxLastLine {
		t.Errorf("a line of %d bytes", len(line))
	}
}

func TestTheEndOfStderrIsKept(t *testing.T) {
	for size := 1; size < 3*maxWords; size = size*3 + 1 { // however it is cut
		var w Tail
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
			if len(text) > maxWords {
				want = "; end"
			}
			if len(got) > maxWords || !strings.HasSuffix(got, want) {
				t.Errorf("%d bytes: %.40q, want %q", len(got), got, want)
			}
		}
	}
}

func TestPowerOffOnTheConsole(t *testing.T) {
	for text, want := range map[string]bool{
		"":                                    false,
		"[    9.1] reboot: Power down\r\n":    true,
		"[    9.1] reboot: System halted\r\n": true,
		"[   14.1] reboot: Power off not available: System halted instead\r\n": true,
		"[    9.1] reboot: Restarting system\r\n":                              false,
		"reboot: Power down\n" + strings.Repeat("a guest that lives\n", 2000):  false,
	} {
		var w Watch
		for i := range len(text) {
			_, _ = w.Write([]byte{text[i]})
		}
		if got := w.PoweredOff(); got != want {
			t.Errorf("%.40q: %v", text, got)
		}
	}
}
