package daemon

import (
	"path/filepath"
	"testing"

	"github.com/unkeyed/unkey/go/deploy/metald/internal/config"
)

func TestStatusSaysWhichPartIsMissing(t *testing.T) {
	good := config.Config{StateDir: t.TempDir(), AssetsDir: t.TempDir()}
	for _, c := range status(good) {
		if c.Err != nil {
			t.Errorf("%s: %v", c.Name, c.Err)
		}
	}
	bad := config.Config{StateDir: filepath.Join(good.StateDir, "gone"), AssetsDir: filepath.Join(good.AssetsDir, "gone")}
	for _, c := range status(bad) {
		if c.Err == nil {
			t.Errorf("%s is fine although it does not exist", c.Name)
		}
	}
}
