package cloudhypervisor

import (
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/unkeyed/unkey/go/deploy/metald/internal/console"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/host/jail"
)

const (
	// burstBytes is what comes at once of a guest that writes faster than its connection takes it: of what found that
	// full, some may stay in Cloud Hypervisor, see serial.go.
	burstBytes = 200
	// burstRest is how long after a burst that rest is fetched.
	burstRest = 50 * time.Millisecond
	// partTimeout is how long parting from the serial socket may take, and changing from one connection to another.
	partTimeout = 500 * time.Millisecond
)

// screen reads a guest's serial socket, over one connection after another.
type screen struct {
	dial    func(context.Context) (*net.UnixConn, error)
	drainer *console.Drainer
	keeps   bool          // Cloud Hypervisor keeps what it cannot send
	burst   chan struct{} // of capacity 1: much came at once

	mu     sync.Mutex // guards everything below, but for the stream's writes, which the drainer makes one by one
	stream *serialStream
	conn   *net.UnixConn // nil before the first; the drainer has a duplicate
	source *console.Source
	closed bool
}

func newScreen(root *jail.Jail, m *machine, drainer *console.Drainer) *screen {
	return &screen{
		dial: dialTo(root, serialSocket, m.handle.Process.PID), drainer: drainer, keeps: m.version.keepsSerial(),
		burst: make(chan struct{}, 1), stream: newSerialStream(&m.watch, m.version),
	}
}

// Write is for the drainer.
func (s *screen) Write(p []byte) (int, error) {
	if s.keeps && len(p) >= burstBytes {
		select {
		case s.burst <- struct{}{}:
		default:
		}
	}
	return s.stream.Write(p)
}

// connect makes the first connection of this metald.
func (s *screen) connect(ctx context.Context, before parting, away time.Duration) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	conn, err := s.dial(ctx)
	if err != nil {
		return err
	}
	return s.attach(conn, before, away)
}

// attach drains a new connection. It is called with mu held, and the one before is drained.
func (s *screen) attach(conn *net.UnixConn, before parting, away time.Duration) error {
	if s.closed {
		return errors.Join(net.ErrClosed, conn.Close())
	}
	if err := s.stream.connected(before, away); err != nil {
		return errors.Join(err, conn.Close())
	}
	file, err := conn.File()
	if err != nil {
		return errors.Join(err, conn.Close())
	}
	source, err := s.drainer.Add(file, s)
	if err != nil {
		return errors.Join(err, conn.Close())
	}
	s.conn, s.source = conn, source
	return nil
}

// again makes another connection, which gets what Cloud Hypervisor has kept. It ends the one before, which is read to
// its end first.
func (s *screen) again(ctx context.Context) {
	s.mu.Lock()
	defer s.mu.Unlock()
	conn, err := s.dial(ctx)
	if err != nil {
		return // the one before goes on, or the VMM has ended
	}
	before := s.leave()
	_ = s.attach(conn, before, 0) // else the next look tries again
}

// reopen makes another connection where the one before has ended: the socket was made anew.
func (s *screen) reopen(ctx context.Context) {
	if s.over() {
		s.again(ctx)
	}
}

// over says whether the connection has ended.
func (s *screen) over() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.source == nil {
		return true
	}
	select {
	case <-s.source.Drained():
		return true
	default:
		return false
	}
}

// leave waits for the end of the connection, which another has taken the place of, or which has nothing more to say. It is
// called with mu held.
func (s *screen) leave() parting {
	if s.conn == nil {
		return partedHard
	}
	defer s.shut()
	timer := time.NewTimer(partTimeout)
	defer timer.Stop()
	select {
	case <-s.source.Drained():
		return partedWell
	case <-timer.C:
		return partedHard
	}
}

// shut closes the connection. It is called with mu held.
func (s *screen) shut() {
	if s.conn != nil {
		s.source.Close()
		s.conn.Close()
		s.conn, s.source = nil, nil
	}
}

// part ends the connection so that the next metald finds everything, and notes in dir that it did.
func (s *screen) part(dir string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.conn == nil || s.conn.CloseWrite() != nil {
		return
	}
	if s.leave() == partedWell {
		_ = os.WriteFile(filepath.Join(dir, partedName), nil, 0o600) // else the console will say that it may miss something
	}
}

// parted reads and removes that note.
func parted(dir string) (before parting, away time.Duration) {
	path := filepath.Join(dir, partedName)
	info, err := os.Stat(path)
	if err != nil || os.Remove(path) != nil {
		return partedHard, 0
	}
	return partedWell, time.Since(info.ModTime())
}

// end waits until what the guest said last was read, or for limit, and closes the connection.
func (s *screen) end(limit <-chan time.Time) {
	s.mu.Lock()
	source := s.source
	s.mu.Unlock()
	if source != nil {
		select {
		case <-source.Drained():
		case <-limit:
		}
	}
	s.close()
}

// close is repeatable.
func (s *screen) close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	s.shut()
}
