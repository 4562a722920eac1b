// Package vmmprocess starts, watches, re-adopts and ends VMM processes, one per VM. Children and adopted
// processes are watched alike: one epoll over pidfds, no goroutine and no thread per process.
//
// It also makes and removes the run directory of a VMM, and the sockets in it.
package vmmprocess

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"os"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Supervisor owns the epoll that watches every VMM process. It is safe for concurrent use.
type Supervisor struct {
	log    *slog.Logger
	bootID string
	epoll  *os.File // in Go's netpoller, so that waiting on it takes no thread

	mu      sync.Mutex
	watched map[uint64]*Process // by the token that epoll returns
	token   uint64
}

// New returns a Supervisor. Its processes are watched while Run runs. It marks the files that metald inherited
// from whoever started it close-on-exec, as metald's own all are: no VMM gets them.
func New(log *slog.Logger) (*Supervisor, error) {
	if err := unix.CloseRange(3, math.MaxInt32, unix.CLOSE_RANGE_CLOEXEC); err != nil {
		log.Warn("files that metald inherited will be inherited by VMMs, too", "err", err)
	}
	bootID, err := readBootID()
	if err != nil {
		return nil, err
	}
	fd, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("epoll for VMM processes: %w", err)
	}
	if err := unix.SetNonblock(fd, true); err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("epoll for VMM processes: %w", err)
	}
	return &Supervisor{
		log:     log,
		bootID:  bootID,
		epoll:   os.NewFile(uintptr(fd), "epoll of VMM processes"),
		watched: make(map[uint64]*Process),
	}, nil
}

// Run watches until ctx ends and returns nil then. Processes go on; Start and Adopt fail from then on, Kill
// still works. It is called once.
func (s *Supervisor) Run(ctx context.Context) error {
	defer s.epoll.Close()
	stop := context.AfterFunc(ctx, func() { s.epoll.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	conn, err := s.epoll.SyscallConn()
	if err != nil {
		return fmt.Errorf("watch VMM processes: %w", err)
	}
	var failed error
	events := make([]unix.EpollEvent, 64)
	err = conn.Read(func(fd uintptr) bool {
		failed = s.round(int(fd), events)
		return failed != nil // false: wait until the epoll is readable again
	})
	if ctx.Err() != nil && errors.Is(err, os.ErrDeadlineExceeded) {
		return nil
	}
	return fmt.Errorf("watch VMM processes: %w", errors.Join(failed, err))
}

// round handles everything that is ready now.
func (s *Supervisor) round(epoll int, events []unix.EpollEvent) error {
	for {
		n, err := unix.EpollWait(epoll, events, 0)
		if err == syscall.EINTR {
			continue
		}
		if n == 0 || err != nil {
			return err
		}
		for _, ev := range events[:n] {
			if p := s.byToken(tokenOf(ev)); p != nil {
				p.collect()
			}
		}
	}
}

// watch adds p's pidfd to the epoll. An end that came before is reported all the same.
func (s *Supervisor) watch(p *Process) error {
	s.mu.Lock()
	s.token++
	p.token = s.token
	s.watched[p.token] = p
	s.mu.Unlock()
	err := s.control(unix.EPOLL_CTL_ADD, p)
	if err != nil {
		s.forget(p)
		return fmt.Errorf("watch process %d: %w", p.id.PID, err)
	}
	return nil
}

// unwatch is called with p.mu held, while the pidfd is open.
func (s *Supervisor) unwatch(p *Process) {
	// The only error is that the epoll is closed already, because Run has ended.
	_ = s.control(unix.EPOLL_CTL_DEL, p)
	s.forget(p)
}

func (s *Supervisor) control(op int, p *Process) error {
	conn, err := s.epoll.SyscallConn()
	if err != nil {
		return err
	}
	ev := unix.EpollEvent{Events: unix.EPOLLIN, Fd: int32(p.token), Pad: int32(p.token >> 32)}
	var ctl error
	if err := conn.Control(func(fd uintptr) { ctl = unix.EpollCtl(int(fd), op, p.pidfd, &ev) }); err != nil {
		return err
	}
	return ctl
}

func (s *Supervisor) forget(p *Process) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.watched, p.token)
}

func (s *Supervisor) byToken(token uint64) *Process {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.watched[token]
}

func tokenOf(ev unix.EpollEvent) uint64 { return uint64(uint32(ev.Fd)) | uint64(uint32(ev.Pad))<<32 }
