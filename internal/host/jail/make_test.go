package jail_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/unkeyed/unkey/go/deploy/metald/internal/host/jail"
)

func TestMake(t *testing.T) {
	w := newWorld(t)
	for _, tc := range []struct {
		path  string
		owner jail.Owner
	}{
		{filepath.Dir(w.dir), jail.Owner{}}, {w.dir, jail.Owner{}}, {w.root, vmm},
	} {
		if st := stat(t, tc.path); st.Mode&0o7777 != 0o700 || ownerOf(t, tc.path) != tc.owner {
			t.Errorf("%s has mode %o and belongs to %d:%d", tc.path, st.Mode, st.Uid, st.Gid)
		}
	}
	if w.Owner() != vmm {
		t.Errorf("the jail is %v's", w.Owner())
	}
	opened, err := jail.Open(w.root)
	must(t, err)
	defer opened.Close()
	if opened.Owner() != vmm {
		t.Errorf("the jail that was opened is %v's", opened.Owner())
	}
}

func TestAJailIsMadeOnce(t *testing.T) {
	w := newWorld(t)
	_, err := jail.Make(w.root, vmm)
	wantErr(t, err, os.ErrExist)
	must(t, jail.Remove(t.Context(), w.dir))
	again, err := jail.Make(w.root, vmm)
	must(t, err)
	must(t, again.Close())
}

func TestMakeRefuses(t *testing.T) {
	w := newWorld(t)
	theirs := filepath.Join(w.base, "theirs")
	mkdir(t, theirs)
	must(t, os.Chown(theirs, int(vmm.UID), int(vmm.GID)))
	open := filepath.Join(w.base, "open")
	mkdir(t, open)
	must(t, os.Chmod(open, 0o777))
	must(t, os.Symlink(w.outside, w.base+"/link"))
	must(t, os.Symlink(w.outside, w.base+"/firecracker/vm-link"))
	for _, tc := range []struct {
		name, root string
		owner      jail.Owner
		want       string
	}{
		{"root as the VMM's user", w.base + "/firecracker/vm-2/root", jail.Owner{UID: 0, GID: 1}, "never runs as root"},
		{"root's group", w.base + "/firecracker/vm-2/root", jail.Owner{UID: 1, GID: 0}, "never runs as root"},
		{"a directory of the VMM's user", theirs + "/vm-2/root", vmm, "belongs to uid 54321"},
		{"a directory of everybody's", open + "/vm-2/root", vmm, "chmod go-w"},
		{"a link on the way", w.base + "/link/vm-2/root", vmm, "not a directory"},
		{"a link in the place of the jail", w.base + "/firecracker/vm-link/root", vmm, "file exists"},
		{"no base", w.base + "/none/firecracker/vm-2/root", vmm, "no such file"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			j, err := jail.Make(tc.root, tc.owner)
			if err == nil {
				j.Close()
				t.Fatal("it was made")
			}
			if !strings.Contains(err.Error(), tc.want) {
				t.Errorf("the error is %v, want %q in it", err, tc.want)
			}
			wantNothingAt(t, w.outside+"/vm-2")
			wantNothingAt(t, w.outside+"/root")
			wantNothingAt(t, filepath.Join(w.base, "firecracker/vm-2"))
		})
	}
}

func TestOpenFollowsNoLink(t *testing.T) {
	w := newWorld(t)
	must(t, os.Symlink(w.root, w.base+"/link"))
	must(t, os.Symlink(w.dir, w.base+"/dir"))
	for _, path := range []string{w.base + "/link", w.base + "/dir/root"} {
		if j, err := jail.Open(path); err == nil {
			j.Close()
			t.Errorf("%s was opened", path)
		}
	}
	_, err := jail.Open(w.dir + "/none")
	wantErr(t, err, os.ErrNotExist)
}

// The jailer opens the file that is there, copies the VMM into it and gives it to the VMM's user.
func TestExecutable(t *testing.T) {
	w := newWorld(t)
	device, inode, err := w.Executable("firecracker")
	must(t, err)
	path := w.root + "/firecracker"
	if st := stat(t, path); st.Mode != unix.S_IFREG|0o755 || st.Nlink != 1 || st.Size != 0 {
		t.Errorf("the file is %+v", st)
	}
	write(t, path, "VMM")
	if st := stat(t, path); st.Dev != device || st.Ino != inode {
		t.Error("the file that was written is not the one that was made")
	}
	_, _, err = w.Executable("firecracker")
	wantErr(t, err, os.ErrExist)
}

func TestDir(t *testing.T) {
	w := newWorld(t)
	must(t, w.Dir("run"))
	if st := stat(t, w.root+"/run"); st.Mode != unix.S_IFDIR|0o700 || ownerOf(t, w.root+"/run") != vmm {
		t.Errorf("the directory has mode %o and belongs to %d", st.Mode, st.Uid)
	}
	wantErr(t, w.Dir("run"), os.ErrExist)
	must(t, w.Dir("run/deeper"))
}

func TestNames(t *testing.T) {
	w := newWorld(t)
	for _, name := range []string{"", ".", "..", "../x", "/x", "run/../x", "a//b", "a/", "x\x00y"} {
		if err := w.Dir(name); err == nil {
			t.Errorf("a directory %q was made", name)
		}
		if err := w.FIFO(name); err == nil {
			t.Errorf("a FIFO %q was made", name)
		}
	}
}
