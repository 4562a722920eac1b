package cloudhypervisor

import (
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// maxConnections is how many clients are served; one more is told so and sent away.
const maxConnections = 10

// server is the API's. It does one thing at a time, whatever the connection.
type server struct {
	vmm    *vmm
	socket int

	turn sync.Mutex // of the request that is being done

	mu    sync.Mutex
	conns int
}

func (s *server) run() {
	for {
		fd, _, err := unix.Accept4(s.socket, unix.SOCK_CLOEXEC)
		if err == unix.EINTR || err == unix.ECONNABORTED {
			continue
		}
		if err != nil {
			return
		}
		if !s.admit() {
			_, _ = unix.Write(fd, []byte(serverFull))
			unix.Close(fd)
			continue
		}
		go s.serve(fd)
	}
}

func (s *server) admit() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.conns == maxConnections {
		return false
	}
	s.conns++
	return true
}

func (s *server) serve(fd int) {
	defer func() {
		unix.Close(fd)
		s.mu.Lock()
		s.conns--
		s.mu.Unlock()
	}()
	r := &reader{fd: fd}
	for {
		q, err := r.next()
		if err == errGone {
			return
		}
		s.turn.Lock()
		var answer []byte
		whole := true
		if err != nil {
			answer = unparsed(err).bytes()
		} else {
			answer, whole = s.vmm.answer(q)
			closeAll(q.Files) // whoever keeps one has a duplicate
		}
		ok := writeAll(fd, answer)
		s.turn.Unlock()
		if !ok || !whole {
			return
		}
	}
}

// flush waits for the answer that is being written, if it is written soon.
func (s *server) flush() {
	for range 100 {
		if s.turn.TryLock() {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
}
