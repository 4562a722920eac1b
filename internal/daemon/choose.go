package daemon

import (
	"context"
	"errors"
	"fmt"
	"log/slog"

	"github.com/unkeyed/unkey/go/deploy/metald/internal/backend"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/backend/types"
)

// auto is the value of UNKEY_METALD_BACKEND that leaves the choice to metald.
const auto = "auto"

// verdict is a backend and what this host lacks for it; nil means usable.
type verdict struct {
	backend types.Backend
	lacks   error
}

// choose returns the backend called name or, for auto, the first that is usable on this host.
func choose(ctx context.Context, name string, list []backend.Descriptor, host backend.Host, log *slog.Logger) (types.Backend, error) {
	var lacks []error
	for _, d := range list {
		if name != auto && name != d.Name {
			continue
		}
		v := judge(ctx, d, host)
		if v.lacks == nil {
			log.Info("backend chosen", "backend", d.Name, "why", reason(name, lacks))
			return v.backend, nil
		}
		lacks = append(lacks, fmt.Errorf("the backend %s is not usable on this host: %w", d.Name, v.lacks))
	}
	return nil, errors.Join(lacks...)
}

func judge(ctx context.Context, d backend.Descriptor, host backend.Host) verdict {
	b, err := d.New(host)
	if err != nil {
		return verdict{lacks: err}
	}
	return verdict{backend: b, lacks: b.Check(ctx)}
}

func reason(name string, passedOver []error) string {
	if name != auto {
		return "UNKEY_METALD_BACKEND=" + name
	}
	if len(passedOver) == 0 {
		return "auto: the first of the list is usable"
	}
	return "auto: " + errors.Join(passedOver...).Error()
}
