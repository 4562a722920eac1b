package qemu

import (
	"io"
	"net"
	"sync"
	"syscall"
	"unsafe"
)

// console is the guest's serial port: without a client what it writes is lost, and a client that doesn't read stops it.
type console struct {
	listener *net.UnixListener // nil for standard output
	begun    sync.Once

	mu   sync.Mutex
	conn io.Writer // nil without a client
}

// begin starts to serve, with the first command that is obeyed. A client that waits is taken at once: QEMU's one loop has
// accepted it before it obeys a command that came after it, so it misses no word of the guest's.
func (c *console) begin() {
	if c == nil || c.listener == nil {
		return
	}
	c.begun.Do(func() {
		var first *net.UnixConn
		for first == nil && c.awaited() {
			conn, err := c.listener.AcceptUnix()
			switch {
			case err != nil:
			case hungUp(conn):
				conn.Close()
			default:
				first = conn
			}
		}
		c.set(first)
		go c.serve(first)
	})
}

// serve has one client at a time, conn first.
func (c *console) serve(conn *net.UnixConn) {
	for err := error(nil); ; conn = nil {
		if conn == nil {
			if conn, err = c.listener.AcceptUnix(); err != nil {
				return
			}
			c.set(conn)
		}
		for buf := make([]byte, 512); err == nil; { // input goes nowhere
			_, err = conn.Read(buf)
		}
		c.set(nil)
		conn.Close()
	}
}

func (c *console) set(conn *net.UnixConn) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.conn = nil
	if conn != nil {
		c.conn = conn
	}
}

func (c *console) say(line string) {
	if c == nil {
		return
	}
	c.mu.Lock()
	conn := c.conn
	c.mu.Unlock()
	if conn != nil {
		_, _ = conn.Write([]byte(line + "\r\n"))
	}
}

// awaited tells whether a client waits to be accepted.
func (c *console) awaited() (yes bool) {
	withFD(c.listener, func(fd uintptr) {
		poll := struct {
			fd              int32
			events, revents int16
		}{fd: int32(fd), events: 1} // POLLIN
		n, _, _ := syscall.Syscall(syscall.SYS_POLL, uintptr(unsafe.Pointer(&poll)), 1, 0)
		yes = n == 1
	})
	return yes
}

// hungUp tells whether a client that was accepted has left already.
func hungUp(conn *net.UnixConn) (yes bool) {
	withFD(conn, func(fd uintptr) {
		n, _, err := syscall.Recvfrom(int(fd), make([]byte, 1), syscall.MSG_PEEK|syscall.MSG_DONTWAIT)
		yes = n == 0 && err == nil
	})
	return yes
}

func withFD(s syscall.Conn, use func(fd uintptr)) {
	if raw, err := s.SyscallConn(); err == nil {
		_ = raw.Control(use)
	}
}
