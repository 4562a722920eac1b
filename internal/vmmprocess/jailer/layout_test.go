package jailer

import (
	"path/filepath"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

func layout(t *testing.T, base, id string) Layout {
	t.Helper()
	l, err := LayoutOf(base, "/usr/bin/firecracker", id)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func TestWhereThingsAre(t *testing.T) {
	want := Layout{Dir: "/srv/jailer/firecracker/web-1", Root: "/srv/jailer/firecracker/web-1/root", Exec: "firecracker"}
	if l := layout(t, "/srv/jailer", "web-1"); l != want {
		t.Errorf("%+v", l)
	}
	if got := Inside(Disk(12)); got != "/disk-12" {
		t.Errorf("a disk is at %q", got)
	}
}

// No two incarnations have one jail, whatever their VMs are called.
func TestEveryIncarnationHasAJailOfItsOwn(t *testing.T) {
	long := strings.Repeat("a", 64)
	vms := []string{"a", "a-1", "a-1-1", "1", "a-11", long, long[:63] + "b", long[:63], long[:62], long[:61], long[:44] + "-1"}
	seen := map[string]string{}
	for _, vm := range vms {
		for _, n := range []uint64{1, 2, 11, 1<<64 - 1} {
			id := IDOf(vm, n)
			if err := CheckID(id); err != nil {
				t.Errorf("%s, %d: %v", vm, n, err)
			}
			if other, ok := seen[id]; ok {
				t.Errorf("%s and %s share the jail %s", other, vm, id)
			}
			seen[id] = vm
		}
	}
	if got := IDOf("web", 3); got != "web-3" {
		t.Errorf("a short id becomes %q", got)
	}
}

// TestNothingIsOutsideOfTheJail draws everything that a jail's path is made of.
func TestNothingIsOutsideOfTheJail(t *testing.T) {
	piece := rapid.SampledFrom([]string{"/", "..", ".", "a", "-", "é", "root", "firecracker", "\x00", "\n", " ", "kernel", "disk-0", "~"})
	text := rapid.Custom(func(t *rapid.T) string { return strings.Join(rapid.SliceOfN(piece, 0, 6).Draw(t, "pieces"), "") })
	accepted := 0
	rapid.Check(t, func(t *rapid.T) {
		base := rapid.OneOf(text, rapid.Just("/srv/jailer"), rapid.Just("/")).Draw(t, "base")
		exec := rapid.OneOf(text, rapid.Just("/usr/bin/firecracker")).Draw(t, "exec")
		id := rapid.OneOf(text, rapid.StringMatching(`[a-z0-9-]{1,64}`)).Draw(t, "id")
		if l, err := LayoutOf(base, exec, id); err == nil {
			accepted++
			confined(t, l, base, exec, id)
		}
	})
	if accepted == 0 {
		t.Error("no layout was accepted: the test shows nothing")
	}
}

// confined checks that a layout is the jailer's, and that the executable's copy is in nobody's way.
func confined(t rapid.TB, l Layout, base, exec, id string) {
	if want := strings.TrimSuffix(base, "/") + "/" + filepath.Base(exec) + "/" + id + "/root"; l.Root != want {
		t.Fatalf("the root is %q, the jailer's is %q", l.Root, want)
	}
	if !filepath.IsLocal(l.Exec) || strings.Contains(l.Exec, "/") {
		t.Fatalf("the executable is %q", l.Exec)
	}
	for _, name := range []string{RunDir, Kernel, Initrd, Metrics, Console, Disk(0), Disk(40)} {
		if l.Exec == name || l.Exec+pidSuffix == name {
			t.Fatalf("%q is the place of two things", name)
		}
	}
}

func FuzzIDs(f *testing.F) {
	for _, id := range []string{
		"web-1", "", ".", "..", "../x", "a/../b", "/etc", "-x", "a\x00b", "é", strings.Repeat("x", 64), strings.Repeat("x", 65),
		"01234567-89ab-cdef-0123-456789abcdef", "a b", "a\n", "%2e%2e", "root", "a=b",
	} {
		f.Add(id)
	}
	f.Fuzz(func(t *testing.T, id string) {
		s := everything()
		s.ID = id
		argv, err := s.Argv()
		l, layoutErr := LayoutOf(s.ChrootBase, s.ExecFile, s.ID)
		if (err == nil) != (layoutErr == nil) {
			t.Fatalf("argv: %v, layout: %v", err, layoutErr)
		}
		if err != nil {
			return
		}
		confined(t, l, s.ChrootBase, s.ExecFile, id)
		if argv[0] != "--id" || argv[1] != id || strings.HasPrefix(id, "-") || len(id) > 64 {
			t.Fatalf("%q", argv)
		}
	})
}
