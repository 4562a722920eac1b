package vmmprocess

import (
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/unkeyed/unkey/go/deploy/metald/internal/backend/types"
)

// gates are those that the tests try, by name.
func gates(t *testing.T) map[string]gate {
	t.Helper()
	found := map[string]gate{"shell": {}}
	if g, err := newGate(); err == nil {
		found["program"] = g
		t.Cleanup(func() { g.program.Close() })
	} else if runtime.GOARCH == "amd64" {
		t.Errorf("the gate's program does not work here: %v", err)
	}
	return found
}

// Whichever the gate is, the VMM has what it was given, and nothing else.
func TestGatesAreAlike(t *testing.T) {
	for name, g := range gates(t) {
		t.Run(name, func(t *testing.T) {
			s := newSupervisor(t)
			s.gate = g
			dir := t.TempDir()
			root, err := os.Open(dir)
			if err != nil {
				t.Fatal(err)
			}
			defer root.Close()
			log := filepath.Join(dir, "log")
			c := Command{Path: "/bin/sh", Args: []string{"-c", script, "a b", "", "$x"}, Env: []string{"KEPT=a b"},
				Root: root, MaxOpenFiles: 77, Stderr: log}
			p, err := s.Start(t.Context(), c, accept)
			if err != nil {
				t.Fatal(err)
			}
			if status, known := awaitExit(t, p); !known || status.ExitStatus() != 3 {
				t.Errorf("status %v (known %v)", status, known)
			}
			b, err := os.ReadFile(log)
			if want := "in " + dir + "\nfiles 77\ncore 0\nscore 500\nkept a b\narguments 2: a b $x\nopen 0 1 2\n"; err != nil || string(b) != want {
				t.Errorf("the VMM says %q (%v), want %q", b, err, want)
			}
		})
	}
}

const script = `echo in $(pwd -P); echo files $(ulimit -n); echo core $(ulimit -c); echo score $(cat /proc/self/oom_score_adj)
echo kept $KEPT; echo arguments $#: $0 $2; cd /proc/$$/fd; o=open; for f in 0 1 2 3 4 5 6 7 8 9; do [ -e $f ] && o="$o $f"; done; echo $o; exit 3`

// A gate that could not do all of it is none of a VMM, and says why.
func TestGatesThatCannot(t *testing.T) {
	for name, g := range gates(t) {
		for what, test := range map[string]struct {
			c     Command
			spoil func(path string) error
			code  int
			names string
		}{
			"no such group": {Command{Joins: []string{"/nowhere/tasks"}}, nil, 126, "/nowhere/tasks"},
			"removed":       {Command{}, os.Remove, 127, "/vmm"},
			"forbidden":     {Command{}, func(path string) error { return os.Chmod(path, 0o600) }, 126, "/vmm"},
		} {
			t.Run(name+" "+what, func(t *testing.T) {
				s := newSupervisor(t)
				s.gate = g
				dir := t.TempDir()
				c := test.c
				c.Path, c.Stderr = filepath.Join(dir, "vmm"), filepath.Join(dir, "log")
				if err := copyFile(sleepCommand(t).Path, c.Path); err != nil {
					t.Fatal(err)
				}
				var pid int
				p, err := s.Start(t.Context(), c, func(id types.ProcessIdentity) error {
					pid = id.PID
					if test.spoil != nil {
						return test.spoil(c.Path)
					}
					eventually(t, "the gate ends", func() bool { return !alive(pid) })
					return nil
				})
				if test.spoil != nil && err != nil {
					t.Fatal(err)
				}
				if err == nil {
					if status, known := awaitExit(t, p); !known || status.ExitStatus() != test.code {
						t.Errorf("exit code %d (known: %v), want %d", status.ExitStatus(), known, test.code)
					}
				}
				if b, err := os.ReadFile(c.Stderr); err != nil || !strings.Contains(string(b), test.names) {
					t.Errorf("it said %q (%v), which does not name %s", b, err, test.names)
				}
			})
		}
	}
}
