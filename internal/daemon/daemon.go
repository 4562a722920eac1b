// Package daemon puts metald together: it knows every part and no part knows it. It owns what runs, and the
// order in which it stops: the API drains, the VMs' runners park, the last readings are logged and added up, then nobody
// watches the VMMs any more. VMs run on.
package daemon

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"syscall"

	"github.com/unkeyed/unkey/go/deploy/metald/internal/api"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/backend"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/config"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/host/disk"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/vm"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/vm/store"
)

// Run runs metald, with the backends of list, until ctx ends, and returns when everything of it has stopped.
func Run(ctx context.Context, cfg config.Config, list []backend.Descriptor, log *slog.Logger) error {
	state, err := openStateDir(cfg.StateDir)
	if err != nil {
		return err
	}
	defer state.Close()
	if cfg.RuntimeDir != "" {
		runtime, err := openDir(config.EnvName("runtime-dir"), cfg.RuntimeDir)
		if err != nil {
			return err
		}
		defer runtime.Close()
	}
	if err := os.MkdirAll(cfg.VolumesDir, 0o711); err != nil {
		return fmt.Errorf("%s: %w", config.EnvName("volumes-dir"), err)
	}
	listener, err := listen(cfg)
	if err != nil {
		return err
	}
	defer listener.Close()
	records, err := store.OpenBolt(filepath.Join(cfg.StateDir, "vms.db"))
	if err != nil {
		return err
	}
	host, err := newHost(cfg, log)
	if err != nil {
		return errors.Join(err, records.Close())
	}
	metered := func(ctx context.Context) error {
		known, err := records.All()
		if err != nil {
			return err
		}
		m, err := openMetering(ctx, cfg, max(cfg.MaxVMs, len(known)), log)
		if err != nil {
			return err
		}
		return m.with(ctx, func(ctx context.Context) error { return serve(ctx, cfg, list, log, host, records, m, listener) })
	}
	return errors.Join(withHost(ctx, host, metered), records.Close())
}

// serve takes over the VMs of an earlier metald, then answers calls until ctx ends.
func serve(ctx context.Context, cfg config.Config, list []backend.Descriptor, log *slog.Logger, host backend.Host, records store.Store, m *metering, listener net.Listener) error {
	chosen, err := choose(ctx, cfg.Backend, list, host, log)
	if err != nil {
		return err
	}
	uids, gids := owners(cfg, chosen.Name())
	jails := &jails{dir: cfg.JailerChrootDir}
	defer jails.Close()
	if err := jails.own(); err != nil { // jailed or not: VMs of an earlier start may be there
		return err
	}
	others, err := others(cfg, list, chosen.Name(), host, jails)
	if err != nil {
		return err
	}
	manager := vm.New(vm.Config{
		Backend:      chosen,
		Others:       others,
		Strangers:    strangers{host.Supervisor},
		Store:        records,
		Metering:     m.sampler,
		StateDir:     cfg.StateDir,
		RunDir:       runDir(cfg),
		Roots:        disk.Roots{Assets: cfg.AssetsDir, Volumes: cfg.VolumesDir},
		MaxVMs:       cfg.MaxVMs,
		UIDBase:      uids,
		GIDBase:      gids,
		ConsoleBytes: int64(cfg.ConsoleLogBytes),
		Log:          log,
	})
	if err := manager.Restore(ctx); err != nil {
		return fmt.Errorf("take over the VMs of an earlier metald: %w", err)
	}
	m.settle(manager)
	front, err := api.New(api.Config{
		VMs:          manager,
		Ledger:       m.ledger,
		Log:          log,
		Backend:      chosen.Name(),
		Capabilities: capabilitiesOf(chosen, others),
		AllowedHosts: cfg.AllowedHosts,
		PublicPaths:  []string{cfg.AssetsDir, cfg.VolumesDir},
		Metrics:      m.write,
		Status: func() []api.ComponentStatus {
			return append(append(status(cfg), m.status()), backendStatus(manager)...)
		},
		Reflection:   cfg.ReflectionEnabled,
		DrainTimeout: cfg.StopTimeout,
	})
	if err != nil {
		return err
	}
	log.Info("serving", "address", listener.Addr().String(), "state", cfg.StateDir, "assets", cfg.AssetsDir)
	answer := func(ctx context.Context) error { return front.Run(ctx, listener) }
	prepare := func(ctx context.Context) error {
		if err := chosen.Prepare(ctx); err != nil && ctx.Err() == nil {
			log.Warn("the backend could not be prepared", "backend", chosen.Name(), "error", err)
		}
		<-ctx.Done()
		return nil
	}
	err = runStages(ctx, stage{"API", answer}, stage{"VM manager", manager.Run}, stage{"backend", prepare})
	log.Info("stopped; VMs run on")
	return err
}

func listen(cfg config.Config) (net.Listener, error) {
	listener, err := net.Listen("tcp", net.JoinHostPort(cfg.Address, strconv.Itoa(cfg.Port)))
	switch {
	case errors.Is(err, syscall.EADDRINUSE):
		return nil, fmt.Errorf("%s: port %d of %s is taken, perhaps by another metald; choose another, or 0 for any that is free",
			config.EnvName("port"), cfg.Port, cfg.Address)
	case err != nil:
		return nil, fmt.Errorf("%s: %w", config.EnvName("address"), err)
	}
	return listener, nil
}

// runDir is in a directory of its own, where nothing else is that could be taken for what belongs to no VM.
func runDir(cfg config.Config) string {
	if cfg.RuntimeDir == "" {
		return ""
	}
	return filepath.Join(cfg.RuntimeDir, "run")
}

func jailed(cfg config.Config, name string) bool { return cfg.JailerEnabled && backend.Jails(name) }

// owners is where the users and groups of VMMs are counted from: 0, metald's own, where metald cannot change users.
func owners(cfg config.Config, name string) (uids, gids uint32) {
	switch {
	case os.Geteuid() != 0:
		return 0, 0
	case jailed(cfg, name):
		return uint32(cfg.JailerUID), uint32(cfg.JailerGID)
	}
	return uint32(cfg.VMMUIDBase), uint32(cfg.VMMUIDBase)
}
