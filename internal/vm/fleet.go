package vm

import (
	"cmp"
	"context"
	"slices"
	"time"

	"github.com/unkeyed/unkey/go/deploy/metald/internal/backend/types"
)

// Other is a backend beside the manager's own, for VMs that are created on it by name.
type Other struct {
	Backend types.Backend
	UIDBase uint32 // as in Config
	GIDBase uint32
}

// BackendStatus is what is known of a backend without asking it.
type BackendStatus struct {
	Name    string
	Own     bool  // VMs that ask for none are on it
	Checked bool  // false: no VM needed it so far
	Lacks   error // what the last Check said; nil: usable
}

// fleet is every backend that VMs can be on, the manager's own first.
type fleet []*member

// member is a backend, the users of its VMMs, and whether this host can run it.
//
// The manager's own was found usable before there was a manager. Another is checked when it is first needed, and as
// long as it is not usable each time: what it lacks can be installed while metald runs.
type member struct {
	types.Backend
	uidBase, gidBase uint32
	own              bool

	turn  chan struct{} // capacity 1; who has put a token in checks, or reads what was found
	began time.Time     // of the last check; zero if there was none
	lacks error         // what it found
}

func newFleet(cfg Config) fleet {
	f := fleet{newMember(Other{cfg.Backend, cfg.UIDBase, cfg.GIDBase})}
	f[0].own, f[0].began = true, cfg.Now()
	for _, o := range cfg.Others {
		f = append(f, newMember(o))
	}
	return f
}

func newMember(o Other) *member {
	return &member{
		Backend: o.Backend, uidBase: o.UIDBase, gidBase: cmp.Or(o.GIDBase, o.UIDBase), turn: make(chan struct{}, 1),
	}
}

// named returns the backend called name, for "" the manager's own.
func (f fleet) named(name string) (*member, error) {
	if name == "" {
		return f[0], nil
	}
	if i := slices.IndexFunc(f, func(b *member) bool { return b.Name() == name }); i >= 0 {
		return f[i], nil
	}
	return nil, types.UnknownBackend(name, f.names())
}

func (f fleet) names() []string {
	names := make([]string, len(f))
	for i, b := range f {
		names[i] = b.Name()
	}
	return names
}

// owner is the user and the group that a VMM in slot runs as; 0 is metald's own. Slots are of all backends, so VMs on
// two of them share a user only where the ranges overlap and are not the same, which the configuration rules out.
func (b *member) owner(slot uint32) (uid, gid uint32) {
	if b.uidBase == 0 {
		return 0, 0
	}
	return b.uidBase + slot, b.gidBase + slot
}

// usable says what this host lacks for the backend; nil once a check has found nothing. Who waits for a check of
// somebody else's is content with one that began after it asked. field is that of the request which asked for the
// backend, "" for none.
func (b *member) usable(ctx context.Context, field string) error {
	if b.own {
		return nil
	}
	asked := time.Now()
	select {
	case b.turn <- struct{}{}:
		defer func() { <-b.turn }()
	case <-ctx.Done():
		return canceled(ctx)
	}
	if known := !b.began.IsZero() && b.lacks == nil; known {
		return nil
	}
	if !b.began.After(asked) {
		began := time.Now()
		err := b.Check(ctx)
		if ctx.Err() != nil {
			return canceled(ctx) // which says nothing of the host
		}
		b.began, b.lacks = began, err
	}
	if b.lacks == nil {
		return nil
	}
	return types.FieldErrorf(types.KindPrecondition, field, "this host cannot run a VM on %s: %w", b.Name(), b.lacks)
}

func (b *member) status() BackendStatus {
	s := BackendStatus{Name: b.Name(), Own: b.own}
	select {
	case b.turn <- struct{}{}:
		defer func() { <-b.turn }()
		s.Checked, s.Lacks = !b.began.IsZero(), b.lacks
	default: // it is being checked
	}
	return s
}

// Backends says of each backend what is known of it, the manager's own first. It never waits.
func (m *Manager) Backends() []BackendStatus {
	var all []BackendStatus
	for _, b := range m.fleet {
		all = append(all, b.status())
	}
	return all
}
