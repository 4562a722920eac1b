// Package vmmprocess starts, watches, re-adopts and ends VMM processes, one per VM. Children and adopted
// processes are watched alike: one epoll over pidfds, no goroutine and no thread per process.
//
// It also makes and removes the run directory of a VMM, and the sockets in it.
package vmmprocess

import (
	"context"
	"fmt"
	"log/slog"
	"math"

	"golang.org/x/sys/unix"

	"github.com/unkeyed/unkey/go/deploy/metald/internal/epoll"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/host/boot"
)

// Supervisor owns the epoll that watches every VMM process. It is safe for concurrent use.
type Supervisor struct {
	log    *slog.Logger
	bootID string
	gate   gate
	poller *epoll.Poller[*Process]
}

// New returns a Supervisor. Its processes are watched while Run runs. It marks the files that metald inherited
// from whoever started it close-on-exec, as metald's own all are: no VMM gets them.
func New(log *slog.Logger) (*Supervisor, error) {
	if err := unix.CloseRange(3, math.MaxInt32, unix.CLOSE_RANGE_CLOEXEC); err != nil {
		log.Warn("files that metald inherited will be inherited by VMMs, too", "err", err)
	}
	bootID, err := boot.ID()
	if err != nil {
		return nil, err
	}
	poller, err := epoll.New[*Process](0)
	if err != nil {
		return nil, fmt.Errorf("watch VMM processes: %w", err)
	}
	gate, err := newGate()
	if err != nil {
		log.Info("the start gate of VMMs is a shell, which takes them half a millisecond longer", "reason", err)
	}
	return &Supervisor{log: log, bootID: bootID, gate: gate, poller: poller}, nil
}

// BootID is that of the host, as handles name it.
func (s *Supervisor) BootID() string { return s.bootID }

// Run watches until ctx ends and returns nil then. Processes go on; Start and Adopt fail from then on, Kill
// still works. It is called once.
func (s *Supervisor) Run(ctx context.Context) error {
	if err := s.poller.Run(ctx, func(p *Process) { _ = p.collect() }); err != nil {
		return fmt.Errorf("watch VMM processes: %w", err)
	}
	return nil
}

// watch adds p's pidfd to the epoll. An end that came before is reported all the same.
func (s *Supervisor) watch(p *Process) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	token, err := s.poller.Add(p.pidfd, p)
	if err != nil {
		return fmt.Errorf("watch process %d: %w", p.id.PID, err)
	}
	p.token = token
	return nil
}
