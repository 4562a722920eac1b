package vm

import (
	"context"
	"errors"

	"github.com/unkeyed/unkey/go/deploy/metald/internal/backend/types"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/host/boot"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/host/dir"
)

// Strangers deals with the processes of VMMs whose backend this metald has not, by what every handle tells.
type Strangers interface {
	// Alive returns an error that wraps types.ErrGone if the process is no more.
	Alive(h types.Handle) error

	// End ends the process, if it is still that one, and removes its run directory. What its backend made elsewhere
	// stays, until a metald that has the backend sweeps it.
	End(ctx context.Context, h types.Handle) error
}

// adopt has the backend that started a VMM take it over.
func (m *Manager) adopt(ctx context.Context, req types.AdoptRequest) (types.Machine, error) {
	b, err := m.fleet.named(req.Handle.Backend)
	if err != nil {
		return nil, m.strange(req.Handle)
	}
	return b.Adopt(ctx, req)
}

// reap has the backend that started a VMM end it and remove what it left, and returns what of its usage is still known.
func (m *Manager) reap(ctx context.Context, h types.Handle) (types.Usage, error) {
	b, err := m.fleet.named(h.Backend)
	if err == nil {
		return b.Reap(ctx, h)
	}
	err = m.strange(h)
	switch {
	case errors.Is(err, types.ErrGone):
		return types.Usage{}, dir.Remove(h.RunDir)
	case m.cfg.Strangers == nil:
		return types.Usage{}, err
	}
	m.cfg.Log.Warn("a VMM of a backend that this metald has not was ended; what the backend made outside of the run directory stays until a metald with it starts",
		"vm", h.VM, "backend", h.Backend)
	return types.Usage{}, m.cfg.Strangers.End(ctx, h)
}

// strange says what is known of a VMM whose backend this metald has not: it is gone, or nobody here can ask it.
func (m *Manager) strange(h types.Handle) error {
	gone := false
	if now, err := boot.ID(); err == nil && now != h.Process.BootID {
		gone = true
	} else if m.cfg.Strangers != nil {
		gone = errors.Is(m.cfg.Strangers.Alive(h), types.ErrGone)
	}
	if gone {
		return types.Errorf(types.KindUnavailable, "the VMM of VM %s: %w", h.VM, types.ErrGone)
	}
	return types.Errorf(types.KindPrecondition,
		"the VMM of VM %s is one of the backend %s, which this metald has not, so what its guest does now is not known; force ends it, a metald with that backend takes it over",
		h.VM, h.Backend)
}
