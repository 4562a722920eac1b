package cloudhypervisor_test

import (
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"github.com/unkeyed/unkey/go/deploy/metald/internal/backend/stubvmm"
)

// built is the stand-in, once for all tests.
var built = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "stub")
	if err != nil {
		return "", err
	}
	return stubvmm.BuildCloudHypervisorIn(dir)
})

func TestMain(m *testing.M) {
	code := m.Run()
	if path, err := built(); err == nil {
		if err := os.RemoveAll(filepath.Dir(path)); err != nil {
			fmt.Fprintln(os.Stderr, err)
		}
	}
	os.Exit(code)
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// each runs a test of a behaviour with the stand-in, and with the real one if METALD_TEST_CLOUD_HYPERVISOR names it.
func each(t *testing.T, test func(t *testing.T, exe string)) {
	t.Run("stub", func(t *testing.T) {
		path, err := built()
		must(t, err)
		test(t, path)
	})
	t.Run("real", func(t *testing.T) {
		real := os.Getenv("METALD_TEST_CLOUD_HYPERVISOR")
		if real == "" {
			t.Skip("no METALD_TEST_CLOUD_HYPERVISOR: the path of Cloud Hypervisor 53.0 is not given")
		}
		test(t, real)
	})
}
