package firecracker_test

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
	return stubvmm.BuildFirecrackerIn(dir)
})

func binary(t testing.TB) string {
	t.Helper()
	path, err := built()
	must(t, err)
	return path
}

func TestMain(m *testing.M) {
	code := m.Run()
	if path, err := built(); err == nil {
		if err := os.RemoveAll(filepath.Dir(path)); err != nil {
			fmt.Fprintln(os.Stderr, err)
		}
	}
	os.Exit(code)
}
