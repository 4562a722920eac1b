// Package epoll watches many file descriptors with one goroutine and no thread: an epoll instance of its own
// that is itself in Go's netpoller.
package epoll

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Poller watches descriptors for input, level-triggered, and knows a value for each. It is safe for concurrent
// use.
type Poller[T any] struct {
	file *os.File
	rest time.Duration

	mu      sync.Mutex
	watched map[Token]T
	last    Token
}

// Token names one watched descriptor. It is never reused, as the number of a descriptor is; so an event that
// was under way when a descriptor was removed hits nobody else. The zero Token names none.
type Token uint64

// New returns a Poller; it watches while Run runs. After each round of events it rests, so that what comes in small
// pieces is handled in larger ones; 0 is no rest.
func New[T any](rest time.Duration) (*Poller[T], error) {
	fd, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("create an epoll: %w", err)
	}
	// Only a non-blocking descriptor is taken up by Go's netpoller.
	if err := unix.SetNonblock(fd, true); err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("create an epoll: %w", err)
	}
	return &Poller[T]{file: os.NewFile(uintptr(fd), "epoll"), rest: rest, watched: make(map[Token]T)}, nil
}

// Add watches fd until Remove. Of a descriptor that is readable already v is handled at once.
func (p *Poller[T]) Add(fd int, v T) (Token, error) {
	p.mu.Lock()
	p.last++
	token := p.last
	p.watched[token] = v
	p.mu.Unlock()
	ev := unix.EpollEvent{Events: unix.EPOLLIN, Fd: int32(token), Pad: int32(token >> 32)}
	if err := p.control(unix.EPOLL_CTL_ADD, fd, &ev); err != nil {
		p.forget(token)
		return 0, fmt.Errorf("add a descriptor to an epoll: %w", err)
	}
	return token, nil
}

// Remove ends the watching of fd, which is still open. A value whose handling is under way may be handled once
// more.
func (p *Poller[T]) Remove(fd int, token Token) {
	// It fails only where Run has ended and the epoll is gone, or fd was not added.
	_ = p.control(unix.EPOLL_CTL_DEL, fd, &unix.EpollEvent{})
	p.forget(token)
}

// Run calls handle, one call at a time, with the value of each readable descriptor, until ctx ends; it returns
// nil then. A descriptor that stays readable is handled again after all others that are. Run is called once:
// Add fails after it.
func (p *Poller[T]) Run(ctx context.Context, handle func(T)) error {
	defer p.file.Close()
	stop := context.AfterFunc(ctx, func() { p.file.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	conn, err := p.file.SyscallConn()
	if err != nil {
		return fmt.Errorf("epoll: %w", err)
	}
	var failed error
	events := make([]unix.EpollEvent, 64)
	err = conn.Read(func(fd uintptr) bool {
		failed = p.drain(ctx, int(fd), events, handle)
		return failed != nil // false: wait until the epoll itself is readable
	})
	if ctx.Err() != nil {
		return nil
	}
	return fmt.Errorf("epoll: %w", errors.Join(failed, err))
}

// drain handles events until there are none. The descriptor of the epoll is edge-triggered in Go's netpoller.
func (p *Poller[T]) drain(ctx context.Context, epoll int, events []unix.EpollEvent, handle func(T)) error {
	for {
		n, err := unix.EpollWait(epoll, events, 0)
		if err == syscall.EINTR {
			continue
		}
		if n == 0 || err != nil {
			return err
		}
		for _, ev := range events[:n] {
			if err := ctx.Err(); err != nil {
				return err
			}
			if v, ok := p.value(tokenOf(ev)); ok {
				handle(v)
			}
		}
		if p.rest > 0 {
			time.Sleep(p.rest)
		}
	}
}

// Len returns how many descriptors are watched.
func (p *Poller[T]) Len() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.watched)
}

// Close frees the epoll where Run is never called; Run does it by itself. Repeatable.
func (p *Poller[T]) Close() error {
	if err := p.file.Close(); err != nil && !errors.Is(err, os.ErrClosed) {
		return err
	}
	return nil
}

func (p *Poller[T]) control(op, fd int, ev *unix.EpollEvent) error {
	conn, err := p.file.SyscallConn()
	if err != nil {
		return err
	}
	var ctl error
	if err := conn.Control(func(epoll uintptr) { ctl = unix.EpollCtl(int(epoll), op, fd, ev) }); err != nil {
		return err
	}
	return ctl
}

func (p *Poller[T]) forget(token Token) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.watched, token)
}

func (p *Poller[T]) value(token Token) (T, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	v, ok := p.watched[token]
	return v, ok
}

func tokenOf(ev unix.EpollEvent) Token { return Token(uint32(ev.Fd)) | Token(uint32(ev.Pad))<<32 }
