package daemon

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"

	"github.com/unkeyed/unkey/go/deploy/metald/internal/api"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/backend"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/backend/types"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/config"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/host/dir"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/host/jail"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/vm"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/vmmprocess"
)

// others makes the backends beside own. Whether this host can run them shows when a VM asks for one, by its name: so
// what auto wants to see proven is not asked for.
func others(cfg config.Config, list []backend.Descriptor, own string, host backend.Host, jails *jails) ([]vm.Other, error) {
	host.MustProveKVM = false
	var all []vm.Other
	for _, d := range list {
		if d.Name == own {
			continue
		}
		b, err := d.New(host)
		if err != nil {
			return nil, fmt.Errorf("the backend %s: %w", d.Name, err)
		}
		if jailed(cfg, d.Name) {
			b = jailing{b, jails}
		}
		uids, gids := owners(cfg, d.Name)
		all = append(all, vm.Other{Backend: b, UIDBase: uids, GIDBase: gids})
	}
	return all, nil
}

// capabilitiesOf is what each backend can do, by its name.
func capabilitiesOf(own types.Backend, others []vm.Other) map[string]types.Capabilities {
	all := map[string]types.Capabilities{own.Name(): own.Capabilities()}
	for _, o := range others {
		all[o.Backend.Name()] = o.Backend.Capabilities()
	}
	return all
}

// jails is the directory of the jails, which is this metald's alone from when there first is one.
type jails struct {
	dir string

	mu   sync.Mutex
	lock *os.File
}

// own locks the directory where it is there. It is repeatable.
func (j *jails) own() error {
	j.mu.Lock()
	defer j.mu.Unlock()
	if _, err := os.Stat(j.dir); j.lock != nil || errors.Is(err, os.ErrNotExist) {
		return nil
	}
	lock, err := jail.Lock(j.dir)
	if err != nil {
		return fmt.Errorf("%s: %w", config.EnvName("jailer-chroot-dir"), err)
	}
	j.lock = lock
	return nil
}

func (j *jails) Close() error {
	if j.lock == nil {
		return nil
	}
	return j.lock.Close()
}

// jailing is a backend whose check may be what makes the directory of the jails.
type jailing struct {
	types.Backend
	jails *jails
}

func (b jailing) Check(ctx context.Context) error {
	if err := b.Backend.Check(ctx); err != nil {
		return err
	}
	return b.jails.own()
}

// strangers ends VMMs of backends that this build has not.
type strangers struct{ supervisor *vmmprocess.Supervisor }

func (s strangers) Alive(h types.Handle) error {
	process, err := s.supervisor.Adopt(h.Process)
	if err == nil {
		process.Release()
	}
	return err
}

func (s strangers) End(ctx context.Context, h types.Handle) error {
	if !filepath.IsAbs(h.RunDir) {
		return fmt.Errorf("handle with the run directory %q", h.RunDir)
	}
	process, err := s.supervisor.Adopt(h.Process)
	switch {
	case errors.Is(err, types.ErrGone):
	case err != nil:
		return fmt.Errorf("end the VMM of VM %s: %w", h.VM, err)
	default:
		defer process.Release()
		if err := process.Kill(ctx); err != nil {
			return fmt.Errorf("end the VMM of VM %s: %w", h.VM, err)
		}
	}
	return dir.Remove(h.RunDir)
}

// backendStatus says of each backend what is known. One that cannot be used leaves metald ready: VMs that need none
// of it are served.
func backendStatus(manager *vm.Manager) []api.ComponentStatus {
	var all []api.ComponentStatus
	for _, b := range manager.Backends() {
		s := api.ComponentStatus{Name: "backend " + b.Name}
		switch {
		case b.Own:
			s.Note = "usable when metald started; VMs that ask for none are on it"
		case !b.Checked:
			s.Note = "not tried yet; that is done when a VM is to be on it"
		case b.Lacks != nil:
			s.Note = "not usable when it was last tried: " + b.Lacks.Error()
		default:
			s.Note = "usable when it was first needed"
		}
		all = append(all, s)
	}
	return all
}
