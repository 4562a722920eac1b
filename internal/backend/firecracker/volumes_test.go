package firecracker

import (
	"errors"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/unkeyed/unkey/go/deploy/metald/internal/backend/backendtest"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/backend/types"
)

// owner is whose a file is, its mode, and when it was written to.
type owner struct {
	uid, gid uint32
	mode     os.FileMode
	mtime    time.Time
}

func ownerOf(t testing.TB, path string) owner {
	t.Helper()
	info, err := os.Lstat(path)
	must(t, err)
	st := info.Sys().(*syscall.Stat_t)
	return owner{st.Uid, st.Gid, info.Mode(), info.ModTime()}
}

// volume makes a disk that is another user's.
func (r *rig) volume(name string) string {
	path := filepath.Join(r.dir, name)
	backendtest.Copy(r.t, r.root, path)
	must(r.t, os.Chown(path, 4711, 4712))
	must(r.t, os.Chmod(path, 0o640))
	return path
}

func TestAVolumeIsLentAndGivenBack(t *testing.T) {
	onStubs(t, func(t *testing.T, r *rig) {
		path := r.volume("volume")
		before := ownerOf(t, path)
		req := r.request("lent", r.spec())
		req.Disks = []string{path}
		req.Commit = func(types.Handle) error {
			if now := ownerOf(t, path); now != before {
				t.Errorf("it was lent before the handle was durable: %+v", now)
			}
			return errors.New("the store is full")
		}
		if _, err := r.backend.Create(t.Context(), req); err == nil {
			t.Fatal("created without a record")
		}
		if now := ownerOf(t, path); now != before {
			t.Errorf("after a create that failed it is %+v", now)
		}

		v := r.createFrom(req)
		if now := ownerOf(t, path); now.uid != someUID || now.gid != someUID || now.mode != 0o640 {
			t.Errorf("lent it is %+v", now)
		}
		must(t, v.Boot(t.Context()))
		must(t, v.Destroy(t.Context()))
		if now := ownerOf(t, path); now != before {
			t.Errorf("given back it is %+v, and it was %+v", now, before)
		}

		req.RunDir, req.Incarnation = req.RunDir+"-2", 2
		v = r.createFrom(req)
		v.Release() // and metald dies
		backendtest.Reap(t, r.another(), v.Handle())
		if now := ownerOf(t, path); now != before {
			t.Errorf("given back after a restart it is %+v, and it was %+v", now, before)
		}
	})
}

func TestTemplatesStayWhatTheyAre(t *testing.T) {
	onStubs(t, func(t *testing.T, r *rig) {
		kernel, template := ownerOf(t, r.kernel), r.volume("template")
		must(t, os.Chmod(template, 0o644))
		before := ownerOf(t, template)
		for _, name := range []string{"first", "second"} {
			spec := r.spec()
			spec.Disks[0].ReadOnly = true
			req := r.request(name, spec)
			req.Disks = []string{template}
			v := r.createFrom(req)
			must(t, v.Boot(t.Context()))
			if now := ownerOf(t, template); now != before {
				t.Errorf("in use it is %+v, and it was %+v", now, before)
			}
			defer func() { must(t, v.Destroy(t.Context())) }()
		}
		if now := ownerOf(t, r.kernel); now != kernel {
			t.Errorf("the kernel is %+v, and it was %+v", now, kernel)
		}
	})
}
