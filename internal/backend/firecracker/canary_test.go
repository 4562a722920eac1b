package firecracker

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/unkeyed/unkey/go/deploy/metald/internal/backend/backendtest"
)

// trial returns a Backend whose trial guest is the stand-in's, with these knobs, and that keeps verdicts in dir.
func (r *rig) trial(dir string, knobs ...string) *Backend {
	r.t.Helper()
	another := &rig{t: r.t, dir: backendtest.Dir(r.t), config: r.config}
	another.config.CanaryKernel, another.config.StateDir = r.kernel, dir
	another.knobs(knobs...)
	return another.backend
}

func TestATrialGuestThatComesUp(t *testing.T) {
	r := onStub(t, false)
	dir := t.TempDir()
	b := r.trial(dir)
	v, err := b.canary(t.Context())
	must(t, err)
	if !v.Usable || !strings.Contains(v.Why, "came up") {
		t.Errorf("verdict %+v", v)
	}
	// The next answer is the one that was kept.
	kept := filepath.Join(dir, canaryFile)
	text, err := os.ReadFile(kept)
	must(t, err)
	backendtest.Write(t, kept, []byte(strings.Replace(string(text), "came up", "was remembered", 1)))
	if v, err = b.canary(t.Context()); err != nil || !v.Usable || !strings.Contains(v.Why, "was remembered") {
		t.Errorf("the second time: %+v, %v", v, err)
	}
	// Another kernel needs another trial.
	backendtest.Write(t, r.kernel, append(must1(os.ReadFile(r.kernel))(t), 0))
	if v, err = b.canary(t.Context()); err != nil || !v.Usable || strings.Contains(v.Why, "was remembered") {
		t.Errorf("with another kernel: %+v, %v", v, err)
	}
	if left := children(); len(left) > 0 {
		t.Errorf("left: %v", left)
	}
}

func must1[T any](v T, err error) func(testing.TB) T {
	return func(t testing.TB) T { t.Helper(); must(t, err); return v }
}

func TestATrialThatDoesNotComeUp(t *testing.T) {
	r := onStub(t, false)
	for knob, says := range map[string]string{
		"stub.die=3": "the stand-in was told to die", "stub.crash=1": "", "stub.notrun=1": "did not come up within",
	} {
		dir := t.TempDir()
		b := r.trial(dir, knob)
		began := time.Now()
		v, err := b.canary(t.Context())
		if err != nil || v.Usable || !strings.Contains(v.Why, says) {
			t.Errorf("%s: verdict %+v, %v", knob, v, err)
		}
		if took := time.Since(began); took > canaryTimeout+2*time.Second {
			t.Errorf("%s: it took %s", knob, took)
		}
		if left := children(); len(left) > 0 {
			t.Errorf("%s: left %v", knob, left)
		}
		if _, err := os.Stat(filepath.Join(dir, canaryFile)); err != nil {
			t.Errorf("%s: the verdict was not kept: %v", knob, err)
		}
	}
}

// A trial whose caller gives up proves nothing.
func TestATrialThatIsGivenUp(t *testing.T) {
	r := onStub(t, false)
	dir := t.TempDir()
	b := r.trial(dir, "stub.notrun=1")
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	v, err := b.canary(ctx)
	if err == nil {
		t.Errorf("verdict %+v of a trial that was given up", v)
	}
	if _, err := os.Stat(filepath.Join(dir, canaryFile)); !os.IsNotExist(err) {
		t.Errorf("a verdict was kept: %v", err)
	}
}
