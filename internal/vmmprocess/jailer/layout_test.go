package jailer

import (
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
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
	l := layout(t, "/srv/jailer", "web-1")
	if l.Dir != "/srv/jailer/firecracker/web-1" || l.Root != "/srv/jailer/firecracker/web-1/root" {
		t.Errorf("%+v", l)
	}
	const root = "/srv/jailer/firecracker/web-1/root"
	for inside, got := range map[string]Place{
		"/run/firecracker.socket": l.Socket(), "/firecracker": l.Exec(), "/firecracker.pid": l.PIDFile(),
		"/kernel": l.Kernel(), "/initrd": l.Initrd(), "/disk-0": l.Disk(0), "/disk-12": l.Disk(12),
		"/metrics.fifo": l.Metrics(), "/log.fifo": l.Log(), "/v.sock": l.Vsock(), "/v.sock_1024": l.VsockPort(1024),
	} {
		if want := (Place{Host: root + inside, Inside: inside}); got != want {
			t.Errorf("%+v, want %+v", got, want)
		}
	}
	ofSpec, err := plain().Layout()
	if err != nil || ofSpec != l {
		t.Errorf("the layout of the spec is %+v, %v", ofSpec, err)
	}
}

func TestFilesToPlace(t *testing.T) {
	l := layout(t, "/srv/jailer", "web-1")
	got := l.Files(Contents{
		Kernel: "/opt/vmlinux", Initrd: "/opt/initrd", Log: true,
		Disks: []Disk{{Source: "/var/a.img"}, {Source: "/var/b.img", ReadOnly: true}},
	})
	want := []File{
		{l.Kernel(), ReadOnly, "/opt/vmlinux"}, {l.Initrd(), ReadOnly, "/opt/initrd"},
		{l.Disk(0), Writable, "/var/a.img"}, {l.Disk(1), ReadOnly, "/var/b.img"},
		{l.Metrics(), FIFO, ""}, {l.Log(), FIFO, ""},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	if n := len(l.Files(Contents{Kernel: "/k"})); n != 2 {
		t.Errorf("%d files for a kernel and its metrics", n)
	}
}

func TestSocketPathsThatAreTooLong(t *testing.T) {
	const uuid = "01234567-89ab-cdef-0123-456789abcdef"
	if err := layout(t, "/srv/jailer", uuid).CheckSockets(true); err != nil {
		t.Error(err)
	}
	err := layout(t, "/srv/jailer", strings.Repeat("x", 64)).CheckSockets(false)
	if err == nil || !strings.Contains(err.Error(), "with 116 bytes its path is 9 too long") {
		t.Errorf("64 characters: %v", err)
	}
	// The limit itself: 107 bytes fit.
	short := layout(t, "/srv/jailer", "x")
	fits := 107 - len(short.Socket().Host) + 1
	if err := layout(t, "/srv/jailer", strings.Repeat("x", fits)).CheckSockets(true); err != nil {
		t.Errorf("107 bytes: %v", err)
	}
	if err := layout(t, "/srv/jailer", strings.Repeat("x", fits+1)).CheckSockets(false); err == nil {
		t.Error("108 bytes are accepted")
	}
}

func TestTheVsocksPortsCount(t *testing.T) {
	l := layout(t, "/srv/jailer", "web-1")
	l.Root = "/" + strings.Repeat("r", 107-1-len("/run/firecracker.socket"))
	if err := l.CheckSockets(true); err != nil {
		t.Error(err)
	}
	if longest := l.VsockPort(1<<32 - 1).Host; len(longest) != len(l.Vsock().Host)+vsockPortDigits {
		t.Errorf("%s is longer than the room for it", longest)
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

// confined checks that a layout is the jailer's, and that every place is below its root and no other's.
func confined(t rapid.TB, l Layout, base, exec, id string) {
	if want := strings.TrimSuffix(base, "/") + "/" + filepath.Base(exec) + "/" + id + "/root"; l.Root != want {
		t.Fatalf("the root is %q, the jailer's is %q", l.Root, want)
	}
	var seen []string
	for _, p := range places(l) {
		rest, ok := strings.CutPrefix(p.Host, l.Root+"/")
		if !ok || !filepath.IsLocal(rest) || p.Inside != "/"+rest || filepath.Clean(p.Host) != p.Host {
			t.Fatalf("%+v is not within %q", p, l.Root)
		}
		if slices.Contains(seen, p.Host) {
			t.Fatalf("%q is the place of two things", p.Host)
		}
		seen = append(seen, p.Host)
	}
}

func places(l Layout) []Place {
	return []Place{
		l.Exec(), l.PIDFile(), l.Socket(), l.Kernel(), l.Initrd(), l.Disk(0), l.Disk(40), l.Metrics(), l.Log(), l.Vsock(),
		l.VsockPort(0), l.VsockPort(1<<32 - 1),
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
		l, layoutErr := s.Layout()
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
		if cgroup, err := s.CgroupDir(); err != nil || cgroup != "metald/vms/"+id {
			t.Fatalf("cgroup %q, %v", cgroup, err)
		}
	})
}
