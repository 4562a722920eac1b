package daemon

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/unkeyed/unkey/go/deploy/metald/internal/config"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/host/disk"
)

// hostID is the name under which this host bills: the one that it was given, or one that is made once.
func hostID(cfg config.Config) (string, error) {
	if cfg.HostID != "" {
		return cfg.HostID, nil
	}
	path := filepath.Join(cfg.StateDir, "host-id")
	text, err := os.ReadFile(path)
	switch id := strings.TrimSpace(string(text)); {
	case errors.Is(err, fs.ErrNotExist):
		return makeHostID(path)
	case err != nil:
		return "", err
	case id == "":
		return "", fmt.Errorf("%s is empty: put this host's id there, or set %s", path, config.EnvName("host-id"))
	default:
		return id, nil
	}
}

// makeHostID keeps an id before anybody is billed under it.
func makeHostID(path string) (string, error) {
	id := "host-" + strings.ToLower(rand.Text())
	fresh := path + ".tmp"
	f, err := os.OpenFile(fresh, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return "", err
	}
	_, err = f.WriteString(id + "\n")
	if err := errors.Join(err, f.Sync(), f.Close()); err != nil {
		return "", err
	}
	if err := os.Rename(fresh, path); err != nil {
		return "", err
	}
	return id, disk.SyncDir(filepath.Dir(path))
}
