package cloudhypervisor

import (
	"io"
	"net"
	"os"
	"sync"
	"time"
)

// keptOutput is how much of what the guest said is told to a new client, in bytes.
const keptOutput = 1 << 20

// socketLine is a serial port on a socket: of one client at a time, of which a new one takes the place of the old.
type socketLine struct {
	listener *net.UnixListener

	mu     sync.Mutex
	client *net.UnixConn
	kept   []byte
}

func listenLine(path string) (*socketLine, error) {
	listener, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		return nil, err
	}
	s := &socketLine{listener: listener}
	go s.accept()
	return s, nil
}

func (s *socketLine) accept() {
	for {
		conn, err := s.listener.AcceptUnix()
		if err != nil {
			return
		}
		s.mu.Lock()
		if s.client != nil {
			s.client.Close()
		}
		s.client = conn
		s.send(s.kept)
		s.mu.Unlock()
		go s.watch(conn)
	}
}

// watch throws away what a client types, and notices its end.
func (s *socketLine) watch(conn *net.UnixConn) {
	_, _ = io.Copy(io.Discard, conn)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.client == conn {
		s.client = nil
	}
	conn.Close()
}

func (s *socketLine) write(b []byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.kept = append(s.kept, b...)
	s.kept = s.kept[max(0, len(s.kept)-keptOutput):]
	s.send(b)
}

// send gives the client what it takes soon. The rest is lost to it.
func (s *socketLine) send(b []byte) {
	if s.client == nil || len(b) == 0 {
		return
	}
	_ = s.client.SetWriteDeadline(time.Now().Add(10 * time.Millisecond))
	_, _ = s.client.Write(b)
}

func (s *socketLine) close() {
	path := s.listener.Addr().String()
	s.listener.Close()
	_ = os.Remove(path)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.client != nil {
		s.client.Close()
		s.client = nil
	}
}
