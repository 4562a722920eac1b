package jail_test

import (
	"context"
	"errors"
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/unkeyed/unkey/go/deploy/metald/internal/host/jail"
)

var root = jail.Owner{}

// What a VMM's user may read and no more is shared; everything else is copied. A source never changes.
func TestPlaceReadOnly(t *testing.T) {
	stranger := jail.Owner{UID: 7, GID: 7}
	for _, tc := range []struct {
		name  string
		owner jail.Owner
		mode  uint32
		want  jail.Way
	}{
		{"everybody reads it", root, 0o444, jail.Link},
		{"its owner writes it", root, 0o644, jail.Link},
		{"somebody else's", stranger, 0o644, jail.Link},
		{"the VMM's group reads it", jail.Owner{GID: vmm.GID}, 0o640, jail.Link},
		{"nobody else reads it", root, 0o600, jail.Copy},
		{"everybody writes it", root, 0o666, jail.Copy},
		{"the VMM's own", vmm, 0o444, jail.Copy},
		{"the VMM's group writes it", jail.Owner{GID: vmm.GID}, 0o664, jail.Copy},
		{"all but the VMM's group read it", jail.Owner{GID: vmm.GID}, 0o604, jail.Copy},
		{"it runs as root", root, 0o4755, jail.Copy},
		{"it runs as its group", root, 0o2755, jail.Copy},
	} {
		t.Run(tc.name, func(t *testing.T) {
			w := newWorld(t)
			source := w.file(t, "kernel", "kernel", tc.owner, tc.mode)
			before := stat(t, source)
			placed, err := w.Place(t.Context(), jail.File{Name: "kernel", Source: source})
			must(t, err)
			if placed.Way != tc.want || placed.Loan != nil {
				t.Errorf("placed as %+v, want a %s", placed, tc.want)
			}
			wantUnchanged(t, source, before)
			if got, err := w.readAsVMM(t, "kernel", unix.O_RDONLY); err != nil || got != "kernel" {
				t.Errorf("the VMM reads %q, %v", got, err)
			}
			wantErr(t, w.writeAsVMM(t, "kernel", "evil"), unix.EACCES)
			st := stat(t, w.root+"/kernel")
			if same := st.Ino == before.Ino && st.Dev == before.Dev; same != (tc.want == jail.Link) {
				t.Errorf("the same file: %t", same)
			}
			if tc.want == jail.Copy && (st.Mode != unix.S_IFREG|0o400 || ownerOf(t, w.root+"/kernel") != vmm) {
				t.Errorf("the copy has mode %o and belongs to %d", st.Mode, st.Uid)
			}
			_, err = w.Place(t.Context(), jail.File{Name: "kernel", Source: source})
			wantErr(t, err, os.ErrExist)
			must(t, jail.Remove(t.Context(), w.dir))
			wantUnchanged(t, source, before)
			if read(t, source) != "kernel" {
				t.Error("the source was changed")
			}
		})
	}
}

// wantUnchanged compares all but the count of links, whose change is one of the ctime.
func wantUnchanged(t testing.TB, path string, before unix.Stat_t) {
	t.Helper()
	now := stat(t, path)
	if now.Uid != before.Uid || now.Gid != before.Gid || now.Mode != before.Mode || now.Mtim != before.Mtim || now.Ino != before.Ino || now.Size != before.Size {
		t.Errorf("%s was %+v and is %+v", path, before, now)
	}
}

// An access control list may let the VMM's user write what the mode says it can't.
func TestPlaceReadOnlyWithAnACL(t *testing.T) {
	w := newWorld(t)
	source := w.file(t, "kernel", "kernel", root, 0o644)
	acl := "\x02\x00\x00\x00" + // version 2
		"\x01\x00\x06\x00\xff\xff\xff\xff" + // user::rw-
		"\x02\x00\x06\x00\x31\xd4\x00\x00" + // user:54321:rw-
		"\x04\x00\x04\x00\xff\xff\xff\xff" + // group::r--
		"\x10\x00\x06\x00\xff\xff\xff\xff" + // mask::rw-
		"\x20\x00\x04\x00\xff\xff\xff\xff" // other::r--
	if err := unix.Setxattr(source, "system.posix_acl_access", []byte(acl), 0); err != nil {
		t.Skipf("the file system of the tests has no access control lists: %v", err)
	}
	must(t, os.Chmod(source, 0o644))
	placed, err := w.Place(t.Context(), jail.File{Name: "kernel", Source: source})
	must(t, err)
	if placed.Way != jail.Copy {
		t.Errorf("placed as a %s", placed.Way)
	}
}

// A disk of which little is used takes no more room in a jail.
func TestACopyKeepsHoles(t *testing.T) {
	w := newWorld(t)
	source := w.file(t, "disk", "start", root, 0o600)
	must(t, os.Truncate(source, 1<<30))
	_, err := w.Place(t.Context(), jail.File{Name: "disk-0", Source: source})
	must(t, err)
	if st := stat(t, w.root+"/disk-0"); st.Size != 1<<30 || st.Blocks > 1<<10 {
		t.Errorf("the copy has %d bytes and %d blocks", st.Size, st.Blocks)
	}
}

func TestACopyEndsWithItsContext(t *testing.T) {
	w := newWorld(t)
	tmpfs(t, w.files, 0)
	source := w.file(t, "disk", "start", root, 0o600)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := w.Place(ctx, jail.File{Name: "disk-0", Source: source})
	wantErr(t, err, context.Canceled)
	wantNothingAt(t, w.root+"/disk-0")
}

func TestPlaceRefusesSources(t *testing.T) {
	w := newWorld(t)
	must(t, os.Symlink(w.outside+"/secret", w.files+"/link"))
	must(t, os.Symlink(w.outside, w.files+"/dir"))
	must(t, unix.Mkfifo(w.files+"/fifo", 0o666))
	must(t, unix.Mknod(w.files+"/null", unix.S_IFCHR|0o666, int(unix.Mkdev(1, 3))))
	for _, kind := range []jail.Kind{jail.ReadOnly, jail.Writable} {
		for name, want := range map[string]string{
			"link": "a symbolic link", "dir/secret": "too many levels", "fifo": "a FIFO", "null": "a device",
			".": "a directory", "none": "no such file",
		} {
			_, err := w.Place(t.Context(), jail.File{Name: "disk-0", Source: w.files + "/" + name, Kind: kind})
			if err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("%s: the error is %v, want %q in it", name, err, want)
			}
			wantNothingAt(t, w.root+"/disk-0")
		}
	}
	_, err := w.Place(t.Context(), jail.File{Name: "disk-0", Source: w.files + "/none"})
	if !errors.Is(err, os.ErrNotExist) {
		t.Errorf("no source: %v", err)
	}
}
