package vm

import (
	"context"
	"sync"
	"time"

	"github.com/unkeyed/unkey/go/deploy/metald/internal/backend/types"
)

// usageAge is how old a reading may be that is returned again.
const usageAge = 100 * time.Millisecond

// reading is the last usage that was read of a VM. Its lock is held while the VMM is asked: callers for the same
// VM share one question, callers for other VMs are not concerned.
type reading struct {
	mu    sync.Mutex
	of    *live
	at    time.Time
	usage types.Usage
}

func (r *reading) reset() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.of = nil
}

// Usage returns a reading of a VM that has a VMM, at most 100 ms old.
func (m *Manager) Usage(ctx context.Context, id types.VMID) (types.Usage, error) {
	e, err := m.lookup(id)
	if err != nil {
		return types.Usage{}, err
	}
	l := e.live.Load()
	if l == nil {
		return types.Usage{}, types.Errorf(types.KindPrecondition, "VM %s has no VMM that could be read", id)
	}
	r := &e.reading
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.of == l && time.Since(r.at) < usageAge {
		return r.usage, nil
	}
	usage, err := l.machine.Usage(ctx)
	if err != nil {
		return types.Usage{}, err
	}
	r.of, r.at, r.usage = l, time.Now(), usage
	return usage, nil
}
