package qemu

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/unkeyed/unkey/go/deploy/metald/internal/backend/backendtest"
)

// TestAQEMUIsCountedByItsCgroup: it has one from its birth, which goes with it; the last word has what the cgroup counted,
// also of a QEMU that ended while no metald watched.
func TestAQEMUIsCountedByItsCgroup(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("cgroups take root")
	}
	r := onStub(t)
	r.config.GroupsDir = r.dir
	r.backend = r.another()
	v := r.create("a", r.spec())
	p, err := checkHandle(v.Handle())
	if err != nil {
		t.Fatal(err)
	}
	if p.Group == nil {
		if r.backend.groups() == nil {
			t.Skip("this host has no cgroups that count")
		}
		t.Fatal("it has no cgroup")
	}
	pid := v.Handle().Process.PID
	text, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "cgroup"))
	if err != nil || !strings.Contains(string(text), p.Group.Parent+"/"+p.Group.Name) {
		t.Errorf("it is in %s, %v", text, err)
	}
	if err := unix.Kill(pid, unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	<-v.Exited()
	counted, known := r.backend.cage.CPU(p.Group.Parent, p.Group.Name)
	used, err := v.Usage(t.Context())
	if err != nil || !known || used.CPUTime == nil || *used.CPUTime < counted {
		t.Errorf("it used %v, and its cgroup counted %s: %v", used.CPUTime, counted, err)
	}
	if last := backendtest.Reap(t, r.another(), v.Handle()); last.CPUTime == nil || *last.CPUTime < counted {
		t.Errorf("who reaps it finds %v, and its cgroup counted %s", last.CPUTime, counted)
	}
	if _, known := r.backend.cage.CPU(p.Group.Parent, p.Group.Name); known {
		t.Error("its cgroup is left")
	}
	must(t, r.backend.cage.Parent().Remove(t.Context()))
}
