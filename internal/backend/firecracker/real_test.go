package firecracker

import (
	"testing"

	"github.com/unkeyed/unkey/go/deploy/metald/internal/vm/lifecycle"
)

// On a host whose KVM runs no guests Firecracker's API can be tested all the same.
func TestRealControlPlane(t *testing.T) {
	for _, k := range kinds {
		if !k.real {
			continue
		}
		t.Run(k.name, func(t *testing.T) {
			r := onControlPlane(t, k.jailed)
			v := r.create("control", r.spec())
			v.want(lifecycle.Created)
			must(t, v.Boot(t.Context()))
			v.want(lifecycle.Running)
			must(t, v.Pause(t.Context()))
			v.want(lifecycle.Paused)
			must(t, v.Resume(t.Context()))
			must(t, v.Shutdown(t.Context()))
			eventually(t, "there is a line of metrics", func() bool { return v.diskUsage() != nil })
			v.Release()
			again := v.adopt(r.another())
			again.want(lifecycle.Running)
			must(t, again.Destroy(t.Context()))
			t.Logf("%+v", again.Exit())
		})
	}
}
