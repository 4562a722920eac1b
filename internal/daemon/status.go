package daemon

import (
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/unkeyed/unkey/go/deploy/metald/internal/api"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/config"
)

// leastFree is how much room the state directory must have for records and console logs to be kept.
const leastFree = 16 << 20

// status says whether what every VM needs is there. It is asked by each readiness probe, so it only looks.
func status(cfg config.Config) []api.ComponentStatus {
	return []api.ComponentStatus{
		{Name: "state directory", Err: checkStateDir(cfg.StateDir)},
		{Name: "assets directory", Err: checkAssetsDir(cfg.AssetsDir)},
	}
}

func checkStateDir(path string) error {
	if err := unix.Access(path, unix.W_OK|unix.X_OK); err != nil {
		return fmt.Errorf("%s cannot be written to: %w", path, err)
	}
	var fs unix.Statfs_t
	if err := unix.Statfs(path, &fs); err != nil {
		return fmt.Errorf("statfs %s: %w", path, err)
	}
	if free := int64(fs.Bavail) * fs.Bsize; free < leastFree {
		return fmt.Errorf("%s has %d bytes left, VMs need at least %d", path, free, leastFree)
	}
	return nil
}

func checkAssetsDir(path string) error {
	if err := unix.Access(path, unix.R_OK|unix.X_OK); err != nil {
		return fmt.Errorf("%s cannot be read: %w; make vm-assets makes one", path, err)
	}
	return nil
}
