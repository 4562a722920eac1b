package jail_test

import (
	"encoding/json"
	"os"
	"strings"
	"testing"

	"github.com/unkeyed/unkey/go/deploy/metald/internal/host/disk"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/host/jail"
)

// lend places a disk that somebody else owns, and checks that it is the VMM's.
func lend(t *testing.T, w world, source string, want jail.Way) jail.Loan {
	t.Helper()
	before := ownerOf(t, source)
	placed, err := w.Place(t.Context(), jail.File{Name: "disk-0", Source: source, Kind: jail.Writable})
	must(t, err)
	if placed.Way != want || placed.Loan == nil || ownerOf(t, source) != before {
		t.Fatalf("placed as %+v, want a %s; it belongs to %v", placed, want, ownerOf(t, source))
	}
	for range 2 { // the second finds nothing to do
		must(t, placed.Loan.Give())
	}
	if got := ownerOf(t, source); got != vmm {
		t.Errorf("the source belongs to %v", got)
	}
	must(t, w.writeAsVMM(t, "disk-0", "guest"))
	if got := read(t, source); got != "guest" {
		t.Errorf("the guest wrote, and %q is in the source", got)
	}
	var loan jail.Loan // as it comes back from a record
	b, err := json.Marshal(placed.Loan)
	must(t, err)
	must(t, json.Unmarshal(b, &loan))
	return loan
}

func TestPlaceWritable(t *testing.T) {
	w := newWorld(t)
	before := jail.Owner{UID: 7, GID: 8}
	source := w.file(t, "volume", "disk.", before, 0o440)
	must(t, os.Link(source, w.files+"/other")) // somebody else's link is no hindrance
	loan := lend(t, w, source, jail.Link)
	if st := stat(t, source); st.Mode&0o7777 != 0o640 {
		t.Errorf("its mode is %o", st.Mode)
	}
	must(t, jail.Remove(t.Context(), w.dir))
	for range 2 { // the second finds nothing to do
		must(t, loan.Restore())
		if st := stat(t, source); ownerOf(t, source) != before || st.Mode&0o7777 != 0o440 {
			t.Errorf("given back, it belongs to %d:%d with mode %o", st.Uid, st.Gid, st.Mode)
		}
	}
	if got := read(t, source); got != "guest" {
		t.Errorf("without the jail %q is in the source", got)
	}
}

// A disk is not run by anybody; bits to gain a user by would be the VMM's.
func TestWhatIsLentGainsNobody(t *testing.T) {
	w := newWorld(t)
	source := w.file(t, "volume", "disk.", root, 0o6755)
	placed, err := w.Place(t.Context(), jail.File{Name: "disk-0", Source: source, Kind: jail.Writable})
	must(t, err)
	must(t, placed.Loan.Give())
	if st := stat(t, source); st.Mode&0o7777 != 0o755 {
		t.Errorf("its mode is %o", st.Mode)
	}
	must(t, placed.Loan.Restore())
	if st := stat(t, source); st.Mode&0o7777 != 0o6755 {
		t.Errorf("given back, its mode is %o", st.Mode)
	}
}

func TestRestoreLeavesAloneWhatIsNotTheVMMs(t *testing.T) {
	for _, tc := range []struct {
		name   string
		change func(t *testing.T, w world, source string)
		want   string
		owner  jail.Owner
	}{
		{"the operator took it", func(t *testing.T, _ world, source string) {
			must(t, os.Chown(source, 99, 99))
		}, "", jail.Owner{UID: 99, GID: 99}},
		{"another file", func(t *testing.T, w world, source string) {
			must(t, os.Rename(w.file(t, "other", "other", vmm, 0o600), source))
		}, disk.ErrChanged.Error(), vmm},
		{"a link", func(t *testing.T, w world, source string) {
			must(t, os.Remove(source))
			must(t, os.Symlink(w.outside+"/secret", source))
		}, "a symbolic link", root},
		{"nothing", func(t *testing.T, _ world, source string) { must(t, os.Remove(source)) }, "", root},
	} {
		t.Run(tc.name, func(t *testing.T) {
			w := newWorld(t)
			source := w.file(t, "volume", "disk.", root, 0o600)
			loan := lend(t, w, source, jail.Link)
			tc.change(t, w, source)
			if err := loan.Restore(); tc.want == "" {
				must(t, err)
			} else if err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("the error is %v, want %q in it", err, tc.want)
			}
			if tc.name != "nothing" && ownerOf(t, source) != tc.owner {
				t.Errorf("it belongs to %v, want %v", ownerOf(t, source), tc.owner)
			}
		})
	}
}

// What changed hands since it was placed is not the VMM's to have.
func TestGiveLeavesAloneWhatChanged(t *testing.T) {
	w := newWorld(t)
	source := w.file(t, "volume", "disk.", root, 0o600)
	placed, err := w.Place(t.Context(), jail.File{Name: "disk-0", Source: source, Kind: jail.Writable})
	must(t, err)
	must(t, os.Chown(source, 99, 99))
	wantErr(t, placed.Loan.Give(), disk.ErrChanged)
	if got := ownerOf(t, source); got != (jail.Owner{UID: 99, GID: 99}) {
		t.Errorf("it belongs to %v", got)
	}
	must(t, os.Rename(w.file(t, "other", "other", root, 0o600), source))
	wantErr(t, placed.Loan.Give(), disk.ErrChanged)
	if got := ownerOf(t, source); got != root {
		t.Errorf("the other file belongs to %v", got)
	}
}
