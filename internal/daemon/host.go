package daemon

import (
	"context"
	"errors"
	"log/slog"

	"github.com/unkeyed/unkey/go/deploy/metald/internal/backend"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/config"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/console"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/vmmprocess"
)

// newHost makes what backends share.
func newHost(cfg config.Config, log *slog.Logger) (backend.Host, error) {
	supervisor, err := vmmprocess.New(log)
	if err != nil {
		return backend.Host{}, err
	}
	drainer, err := console.NewDrainer()
	if err != nil {
		return backend.Host{}, err
	}
	return backend.Host{
		Supervisor: supervisor,
		Drainer:    drainer,
		StateDir:   cfg.StateDir,
		AssetsDir:  cfg.AssetsDir,
		QEMUBinary: cfg.QEMUBinary,
		QEMUAccel:  cfg.QEMUAccel,
		Log:        log,

		FirecrackerBinary: cfg.FirecrackerBinary,
		JailerBinary:      cfg.JailerBinary,

		CloudHypervisorBinary: cfg.CloudHypervisorBinary,

		MustProveKVM: cfg.Backend == auto,
		Jail:         jailConfig(cfg),
	}, nil
}

// jailConfig is nil where VMMs are not to be jailed.
func jailConfig(cfg config.Config) *backend.Jail {
	if !cfg.JailerEnabled {
		return nil
	}
	return &backend.Jail{
		Dir:          cfg.JailerChrootDir,
		NetNamespace: cfg.JailerNetNS,
		PIDNamespace: cfg.JailerPIDNS,
		MemoryBytes:  int64(cfg.JailerMemoryLimit),
		CPUPercent:   cfg.JailerCPUQuota,
		MaxOpenFiles: uint64(cfg.JailerFDLimit),
		IOBytes:      int64(cfg.JailerIOLimit),
	}
}

// withHost runs f while the VMM processes are watched and their consoles drained. f may need both; so they end
// after it.
func withHost(ctx context.Context, host backend.Host, f func(context.Context) error) error {
	over, done := context.WithCancel(ctx)
	defer done()
	var result error
	main := func(ctx context.Context) error {
		result = f(ctx)
		done()
		<-ctx.Done() // runStages takes a stage that returns unasked for a fault
		return nil
	}
	err := runStages(over, stage{"metald", main}, stage{"console drainer", host.Drainer.Run}, stage{"VMM supervisor", host.Supervisor.Run})
	return errors.Join(result, err)
}
