package vm

import (
	"context"
	"errors"

	"github.com/unkeyed/unkey/go/deploy/metald/internal/backend/types"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/host/boot"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/host/dir"
)

// adopt has the backend take over a VMM, where it is the backend's.
func (m *Manager) adopt(ctx context.Context, req types.AdoptRequest) (types.Machine, error) {
	if err := m.notOurs(req.Handle); err != nil {
		return nil, err
	}
	return m.cfg.Backend.Adopt(ctx, req)
}

// reap has the backend end a VMM, where it is the backend's, and remove what it left.
func (m *Manager) reap(ctx context.Context, h types.Handle) error {
	err := m.notOurs(h)
	switch {
	case err == nil:
		return m.cfg.Backend.Reap(ctx, h)
	case errors.Is(err, types.ErrGone):
		return dir.Remove(h.RunDir)
	}
	return err
}

// notOurs says why this metald can do nothing about a VMM of another backend: it is gone, if the host was restarted
// since, or that backend has to be chosen again.
func (m *Manager) notOurs(h types.Handle) error {
	if h.Backend == m.cfg.Backend.Name() {
		return nil
	}
	if now, err := boot.ID(); err == nil && now != h.Process.BootID {
		return types.Errorf(types.KindUnavailable, "the VMM of VM %s: %w", h.VM, types.ErrGone)
	}
	return types.Errorf(types.KindPrecondition,
		"the VMM of VM %s is one of the backend %s, and this metald runs %s; start it with UNKEY_METALD_BACKEND=%s to take it over or end it",
		h.VM, h.Backend, m.cfg.Backend.Name(), h.Backend)
}
