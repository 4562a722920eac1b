package sampler

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/unkeyed/unkey/go/deploy/metald/internal/backend/types"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/metering/record"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/metering/usage"
)

var errEnded = errors.New("metering has ended")

// Begin says that a VMM exists, which cannot do anything yet: its counters begin at zero. A life of the VM that goes on
// or waits is over. The error is that of the log: what cannot be metered must not be booted.
func (s *Sampler) Begin(h types.Handle, spec types.Spec, tenant string) error {
	s.mu.Lock()
	if s.ended {
		s.mu.Unlock()
		return errEnded
	}
	gone := s.supersede(h)
	l := s.open(h, spec, tenant, usage.Created, fromZero())
	err := s.begin(l)
	s.mu.Unlock()
	closeAll(gone)
	if err == nil {
		s.attach(l, openProcess(h, spec, l.epoch()))
	}
	return err
}

func (s *Sampler) begin(l *life) error {
	seq, err := s.append(l.life.Start, record.TypeBegin,
		func(dst []byte) []byte { return s.enc.Begin(dst, l.life) },
		func() { s.enc.End(nil, usage.End{Life: l.life}) })
	if err != nil {
		return fmt.Errorf("begin metering VM %s: %w", l.vm(), err)
	}
	l.begun = seq
	s.add(l)
	return nil
}

// supersede ends the lives of a VM that another VMM of it is about to follow.
func (s *Sampler) supersede(h types.Handle) (gone []*source) {
	for _, l := range s.ofVM(h.VM) {
		if l.source != nil {
			s.log.Error("a VMM begins whose VM has another one that is metered", "vm", h.VM, "epoch", l.epoch())
		}
		gone = append(gone, s.lose(l, types.Usage{}, types.ReasonUnobserved))
	}
	return gone
}

func (s *Sampler) ofVM(id types.VMID) (all []*life) {
	for _, group := range [][]*life{s.lives, s.foreign} {
		for _, l := range group {
			if l.vm() == id {
				all = append(all, l)
			}
		}
	}
	return all
}

// Attach says that the machine, of which a life began, can be read from now on.
func (s *Sampler) Attach(m types.Machine) {
	s.mu.Lock()
	l := s.byVM[m.Handle().VM]
	if s.ended || l == nil || !l.is(m.Handle()) {
		s.mu.Unlock()
		return
	}
	spec, epoch := l.spec, l.epoch()
	s.mu.Unlock()
	s.attach(l, openSource(m, spec, epoch, s.log))
}

// attach gives a life its source.
func (s *Sampler) attach(l *life, c *source) {
	s.mu.Lock()
	old := c // where it is too late
	if !l.ended && !s.ended {
		old, l.source, s.changed = l.source, c, true
	}
	s.mu.Unlock()
	closeAll([]*source{old})
}

// Ready waits until the beginning of the VM's life is durable. A guest must not run before.
func (s *Sampler) Ready(ctx context.Context, id types.VMID) error {
	s.mu.Lock()
	l := s.byVM[id]
	if l == nil || s.ended {
		s.mu.Unlock()
		return unknownVM(id)
	}
	seq := l.begun
	s.mu.Unlock()
	if err := s.cfg.Log.Wait(ctx, seq); err != nil {
		return fmt.Errorf("the log of metering does not have the beginning of VM %s: %w", id, err)
	}
	return nil
}

// Enter says that the VM is in a state, or is about to be booted.
func (s *Sampler) Enter(id types.VMID, state usage.State) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if l := s.byVM[id]; l != nil && !s.ended {
		s.enter(l, s.now(), state)
	}
}

// enter notes a state. One that the log does not take is in the next keyframe; and so is one that is found before the
// first, as that of the next tick: nobody knows when it began.
func (s *Sampler) enter(l *life, at usage.Time, state usage.State) {
	if l.state == state {
		return
	}
	l.state = state
	if !s.restored {
		return
	}
	_, err := s.append(at, record.TypeEnter,
		func(dst []byte) []byte { return s.enc.Enter(dst, l.epoch(), at, state) }, func() {})
	if err != nil {
		s.refused(err)
	}
}

// adoptTimeout bounds the first reading of a VMM that no log knows.
const adoptTimeout = time.Second

// Adopt goes on with the life that an earlier metald began of the machine. Where there is none, one begins: at zero
// where the guest never ran, else with what is read now, because what it used before is not known to anybody.
func (s *Sampler) Adopt(m types.Machine, spec types.Spec, tenant string, state usage.State) error {
	h := m.Handle()
	s.mu.Lock()
	l := s.find(h)
	s.mu.Unlock()
	var seen usage.Reading
	switch {
	case l != nil:
	case state == usage.Created: // its life began, and metald ended before the log had that
		seen = fromZero()
	default:
		seen = s.baseline(m, spec)
	}
	s.mu.Lock()
	if s.ended {
		s.mu.Unlock()
		return errEnded
	}
	var gone []*source
	if l == nil || l.ended {
		s.log.Warn("a VMM was taken over that no log of metering knows: it is metered from now on", "vm", h.VM, "pid", h.Process.PID)
		gone = s.supersede(h)
		l = s.open(h, spec, tenant, state, seen)
		if err := s.begin(l); err != nil {
			s.mu.Unlock()
			closeAll(gone)
			return err
		}
	} else {
		s.goOn(l, spec, state)
	}
	epoch := l.epoch()
	s.mu.Unlock()
	closeAll(gone)
	s.attach(l, openSource(m, spec, epoch, s.log))
	return nil
}

// goOn makes l a life that goes on.
func (s *Sampler) goOn(l *life, spec types.Spec, state usage.State) {
	l.waiting = false
	l.has(spec)
	s.byVM[l.vm()] = l
	s.enter(l, s.now(), state)
}

func (s *Sampler) baseline(m types.Machine, spec types.Spec) usage.Reading {
	ctx, cancel := context.WithTimeout(context.Background(), adoptTimeout)
	defer cancel()
	u, err := m.Usage(ctx)
	if err != nil {
		s.log.Warn("the counters of a VMM that was taken over could not be read", "vm", m.Handle().VM, "error", err)
		return usage.Reading{}
	}
	r := reading(u, spec)
	r.Forget(usage.Resident)
	return r
}

// Signed puts the receiver's signature of the log's head into the log.
func (s *Sampler) Signed(sig record.Signature) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ended {
		return
	}
	if _, err := s.append(s.last, record.TypeSigned, func(dst []byte) []byte { return s.enc.Signed(dst, sig) }, func() {}); err != nil {
		s.refused(err)
	}
}
