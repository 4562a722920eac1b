package daemon

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"

	"github.com/unkeyed/unkey/go/deploy/metald/internal/backend"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/config"
)

// errUnusable is Check's error; what is wrong has been written.
var errUnusable = errors.New("metald cannot run VMs on this host as it is configured")

// Check writes, for each backend of list, whether this host can run it and what it lacks. Its error says that the
// configured backend (for auto: every backend) cannot be used.
func Check(ctx context.Context, cfg config.Config, list []backend.Descriptor, w io.Writer) error {
	log := slog.New(slog.DiscardHandler)
	host, err := newHost(cfg, log)
	if err != nil {
		return err
	}
	chosen := ""
	judgeAll := func(ctx context.Context) error {
		for _, d := range list {
			v := judge(ctx, d, host)
			if v.lacks != nil {
				fmt.Fprintf(w, "%s: not usable: %v\n", d.Name, v.lacks)
				continue
			}
			fmt.Fprintf(w, "%s: usable\n", d.Name)
			if chosen == "" && (cfg.Backend == auto || cfg.Backend == d.Name) {
				chosen = d.Name
			}
		}
		return nil
	}
	if err := withHost(ctx, host, judgeAll); err != nil {
		return err
	}
	if chosen == "" {
		fmt.Fprintf(w, "%s=%s: no VM can run\n", config.EnvName("backend"), cfg.Backend)
		return errUnusable
	}
	fmt.Fprintf(w, "%s=%s: VMs run on %s, but for those that ask for another in the field backend of CreateVm\n",
		config.EnvName("backend"), cfg.Backend, chosen)
	return nil
}
