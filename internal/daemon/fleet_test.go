package daemon

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/unkeyed/unkey/go/deploy/metald/internal/backend"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/backend/types"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/config"
)

// maker is a backend whose check makes the directory of the jails, as Firecracker's does.
type maker struct {
	types.Backend
	dir   string
	lacks error
}

func (m maker) Check(context.Context) error {
	return errors.Join(m.lacks, os.MkdirAll(m.dir, 0o700))
}

func TestJailsAreThisMetaldsFromWhenThereAreAny(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "jail")
	ours, theirs := &jails{dir: dir}, &jails{dir: dir}
	defer theirs.Close()
	if err := errors.Join(ours.own(), theirs.own()); err != nil {
		t.Fatalf("where nobody has jails: %v", err)
	}
	if _, err := os.Stat(dir); !errors.Is(err, os.ErrNotExist) {
		t.Fatalf("a metald without jails made a directory for them: %v", err)
	}
	for range 2 {
		if err := (jailing{maker{dir: dir}, ours}).Check(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	err := jailing{maker{dir: dir}, theirs}.Check(t.Context())
	if err == nil || !strings.Contains(err.Error(), "UNKEY_METALD_JAILER_CHROOT_DIR") || !strings.Contains(err.Error(), "another metald") {
		t.Errorf("two metalds have one directory of jails: %v", err)
	}
	if err := ours.Close(); err != nil {
		t.Fatal(err)
	}
	if err := (jailing{maker{dir: dir}, theirs}).Check(t.Context()); err != nil {
		t.Errorf("once the other has ended: %v", err)
	}
	lacks := errors.New("no KVM")
	if err := (jailing{maker{dir: dir, lacks: lacks}, ours}).Check(t.Context()); !errors.Is(err, lacks) {
		t.Errorf("what the host lacks is not said: %v", err)
	}
}

func TestOthersAreAllBackendsButOne(t *testing.T) {
	cfg := config.Config{JailerEnabled: true, JailerUID: 5000, JailerGID: 6000, VMMUIDBase: 7000, JailerChrootDir: filepath.Join(t.TempDir(), "jail")}
	log := slog.New(slog.DiscardHandler)
	host := backend.Host{Log: log, QEMUAccel: "tcg", Jail: jailConfig(cfg), MustProveKVM: true}
	for _, own := range backend.Names() {
		got, err := others(cfg, backend.All(), own, host, &jails{dir: cfg.JailerChrootDir})
		if err != nil || len(got) != len(backend.Names())-1 {
			t.Fatalf("beside %s: %d backends, %v", own, len(got), err)
		}
		for _, o := range got {
			uids, gids := owners(cfg, o.Backend.Name())
			if o.Backend.Name() == own || o.UIDBase != uids || o.GIDBase != gids {
				t.Errorf("beside %s: %s with users from %d and groups from %d", own, o.Backend.Name(), o.UIDBase, o.GIDBase)
			}
		}
		all := capabilitiesOf(got[0].Backend, got[1:])
		if _, ok := all[got[0].Backend.Name()]; !ok || len(all) != len(got) {
			t.Errorf("capabilities of %d backends", len(all))
		}
	}
}
