package vm

import (
	"context"
	"time"

	"github.com/unkeyed/unkey/go/deploy/metald/internal/backend/types"
)

// usageAge is how old a reading may be that is returned again.
const usageAge = 100 * time.Millisecond

// reading is the last usage that was read of a VMM. Callers for the same VMM share one question: who asks has put
// a token into asking, the others wait for it or for their own contexts.
type reading struct {
	asking chan struct{} // capacity 1
	at     time.Time
	usage  types.Usage
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
	r := &l.reading
	select {
	case r.asking <- struct{}{}:
		defer func() { <-r.asking }()
	case <-ctx.Done():
		return types.Usage{}, canceled(ctx)
	}
	if !r.at.IsZero() && time.Since(r.at) < usageAge {
		return r.usage, nil
	}
	usage, err := l.machine.Usage(ctx)
	if err != nil {
		return types.Usage{}, err
	}
	r.at, r.usage = time.Now(), usage
	return usage, nil
}
