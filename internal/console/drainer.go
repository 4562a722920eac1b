package console

import (
	"context"
	"fmt"
	"io"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/unkeyed/unkey/go/deploy/metald/internal/epoll"
)

// drainSize is the most bytes read of one console before the others have their turn.
const drainSize = 64 << 10

// drainRest is how long the drainer waits between two looks. A serial port is written byte by byte, and a look per
// byte would cost more than the guest's own work. QEMU's socket takes some 280 bytes meanwhile.
const drainRest = time.Millisecond

// Drainer reads every guest's console as it comes: one goroutine, one epoll. It is safe for concurrent use.
type Drainer struct {
	poller *epoll.Poller[*Source]
}

// NewDrainer returns a Drainer; it drains while Run runs.
func NewDrainer() (*Drainer, error) {
	poller, err := epoll.New[*Source](drainRest)
	if err != nil {
		return nil, fmt.Errorf("drain consoles: %w", err)
	}
	return &Drainer{poller: poller}, nil
}

// Run drains until ctx ends and returns nil then. It leaves the sources as they are, to be closed by their
// owners; Add fails from then on. It is called once.
func (d *Drainer) Run(ctx context.Context) error {
	buf := make([]byte, drainSize)
	if err := d.poller.Run(ctx, func(s *Source) { s.drain(buf) }); err != nil {
		return fmt.Errorf("drain consoles: %w", err)
	}
	return nil
}

// Source is one console being drained.
type Source struct {
	d       *Drainer
	w       io.Writer
	drained chan struct{}

	mu    sync.Mutex
	fd    int // -1 once closed
	token epoll.Token
}

// Add drains f, a socket, pipe or terminal, into w until end of file or Close. It owns f from now on, also
// where it returns an error. One goroutine writes to all writers, so w must not block; its errors are not
// looked at, since a guest is drained whatever becomes of its output.
func (d *Drainer) Add(f *os.File, w io.Writer) (*Source, error) {
	fd, err := takeDescriptor(f)
	if err != nil {
		return nil, fmt.Errorf("drain console %s: %w", f.Name(), err)
	}
	s := &Source{d: d, w: w, drained: make(chan struct{}), fd: fd}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.token, err = d.poller.Add(fd, s); err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("drain console %s: %w", f.Name(), err)
	}
	return s, nil
}

// takeDescriptor closes f and returns a non-blocking descriptor of the same open file that Go's netpoller does
// not watch.
func takeDescriptor(f *os.File) (int, error) {
	defer f.Close()
	conn, err := f.SyscallConn()
	if err != nil {
		return -1, err
	}
	fd, dup := -1, error(nil)
	err = conn.Control(func(old uintptr) { fd, dup = unix.FcntlInt(old, unix.F_DUPFD_CLOEXEC, 3) })
	if err == nil {
		err = dup
	}
	if err != nil {
		return -1, err
	}
	if err := unix.SetNonblock(fd, true); err != nil {
		unix.Close(fd)
		return -1, err
	}
	return fd, nil
}

// drain reads once. The lock is held while it writes, so that nothing is written after Close has returned.
func (s *Source) drain(buf []byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.fd < 0 {
		return
	}
	n, err := unix.Read(s.fd, buf)
	switch {
	case n > 0:
		_, _ = s.w.Write(buf[:n])
	case err == unix.EAGAIN || err == unix.EINTR:
	default:
		// End of file; EIO is that of a terminal, ECONNRESET that of a VMM that left input unread.
		s.finish()
	}
}

// finish is called with mu held.
func (s *Source) finish() {
	s.d.poller.Remove(s.fd, s.token)
	unix.Close(s.fd)
	s.fd = -1
	close(s.drained)
}

// Drained is closed when everything up to end of file was written to w, or after Close.
func (s *Source) Drained() <-chan struct{} { return s.drained }

// Close stops draining and closes the file; what was not read is lost. Nothing is written to w once it has
// returned. Repeatable.
func (s *Source) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.fd >= 0 {
		s.finish()
	}
	return nil
}
