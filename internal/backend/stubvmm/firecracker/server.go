package firecracker

import (
	"golang.org/x/sys/unix"
)

// maxConnections is how many clients are served; one more is told so and sent away (micro-http's server.rs).
const maxConnections = 10

// server is the API's: one thread, which serves all connections and does one thing at a time.
type server struct {
	vmm     *vmm
	maxBody int
	epoll   int
	socket  int
	kill    int // an eventfd; written to, it ends run
	conns   map[int]*connection
}

type connection struct {
	fd     int
	parser *parser
	out    []byte // not written yet
}

// listen makes the socket. A file in its place is an error.
func listen(path string) (int, error) {
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return -1, err
	}
	if err := unix.Bind(fd, &unix.SockaddrUnix{Name: path}); err != nil {
		return -1, err
	}
	return fd, unix.Listen(fd, 128)
}

func newServer(v *vmm, socket, kill, maxBody int) (*server, error) {
	epoll, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return nil, err
	}
	s := &server{vmm: v, maxBody: maxBody, epoll: epoll, socket: socket, kill: kill, conns: map[int]*connection{}}
	if err := s.watch(unix.EPOLL_CTL_ADD, kill, unix.EPOLLIN); err != nil {
		return nil, err
	}
	return s, s.watch(unix.EPOLL_CTL_ADD, socket, unix.EPOLLIN)
}

func (s *server) watch(op, fd int, events uint32) error {
	return unix.EpollCtl(s.epoll, op, fd, &unix.EpollEvent{Events: events | unix.EPOLLRDHUP, Fd: int32(fd)})
}

// run serves until the machine has ended. What is answered by then is written.
func (s *server) run() error {
	events := make([]unix.EpollEvent, maxConnections+2)
	for {
		n, err := unix.EpollWait(s.epoll, events, -1)
		if err != nil && err != unix.EINTR {
			return err
		}
		for _, e := range events[:max(n, 0)] {
			switch fd := int(e.Fd); fd {
			case s.kill:
				s.flush()
				return nil
			case s.socket:
				s.accept()
			default:
				s.serve(s.conns[fd], e.Events)
			}
		}
	}
}

func (s *server) accept() {
	fd, _, err := unix.Accept4(s.socket, unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK)
	if err != nil {
		return
	}
	if len(s.conns) == maxConnections {
		_, _ = unix.Write(fd, []byte(serverFull))
		unix.Close(fd)
		return
	}
	s.conns[fd] = &connection{fd: fd, parser: newParser(s.maxBody)}
	if s.watch(unix.EPOLL_CTL_ADD, fd, unix.EPOLLIN) != nil {
		s.drop(s.conns[fd])
	}
}

func (s *server) drop(c *connection) {
	delete(s.conns, c.fd)
	unix.Close(c.fd) // which takes it out of the epoll set
}

func (s *server) serve(c *connection, events uint32) {
	switch {
	case c == nil:
	case events&(unix.EPOLLERR|unix.EPOLLHUP|unix.EPOLLRDHUP) != 0:
		s.drop(c)
	case events&unix.EPOLLIN != 0:
		s.read(c)
	case events&unix.EPOLLOUT != 0:
		s.write(c)
	}
}

// read reads as much as fits and answers what that makes whole. Nothing more is read until the answers are written.
func (s *server) read(c *connection) {
	n := 0
	room, err := c.parser.room()
	if err == nil {
		if n, err = unix.Read(c.fd, room); n == 0 && err == nil {
			s.drop(c)
			return
		}
		if err != nil {
			c.out = append(c.out, response{Status: 500, Body: []byte(err.Error())}.bytes()...)
			err = nil
		} else {
			err = c.parser.parse(n)
		}
	}
	requests := c.parser.done
	c.parser.done = nil
	if err != nil {
		c.out = append(c.out, unparsed(err).bytes()...)
		requests = nil
	} else if c.parser.expects && c.parser.missing > 0 {
		c.parser.expects = false
		c.out = append(c.out, response{Status: 100}.bytes()...)
	}
	for _, r := range requests {
		answer, whole := s.vmm.answer(r)
		c.out = append(c.out, answer...)
		if !whole {
			_, _ = unix.Write(c.fd, c.out)
			s.drop(c)
			return
		}
	}
	if len(c.out) > 0 && s.watch(unix.EPOLL_CTL_MOD, c.fd, unix.EPOLLOUT) != nil {
		s.drop(c)
	}
}

func (s *server) write(c *connection) {
	n, err := unix.Write(c.fd, c.out)
	if err == unix.EINTR {
		return
	}
	if err != nil {
		s.drop(c)
		return
	}
	if c.out = c.out[n:]; len(c.out) == 0 {
		c.out = nil
		if s.watch(unix.EPOLL_CTL_MOD, c.fd, unix.EPOLLIN) != nil {
			s.drop(c)
		}
	}
}

// flush writes the answers that are there.
func (s *server) flush() {
	for _, c := range s.conns {
		for len(c.out) > 0 {
			n, err := unix.Write(c.fd, c.out)
			if err != nil {
				break
			}
			c.out = c.out[n:]
		}
	}
}
