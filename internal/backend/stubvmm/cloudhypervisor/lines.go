package cloudhypervisor

import (
	"sync"

	"golang.org/x/sys/unix"

	"github.com/unkeyed/unkey/go/deploy/metald/internal/backend/stubvmm/rust"
)

// lines are the guest's serial port and its console of virtio, as they are open from vm.create to the end of the guest.
type lines struct {
	serial, console *line
}

// line is one of them. What is not taken at once is lost, byte by byte.
type line struct {
	mu     sync.Mutex // of a line of text
	fd     int        // -1 for none
	own    bool       // the descriptor is the line's
	socket *socketLine
}

// openLines opens both. A mode without what it needs is where Cloud Hypervisor panics.
func (v *vmm) openLines() *fault {
	c := v.config
	console, f := v.openLine(c.Console.Mode, c.Console.File, nil, true)
	if f != nil {
		return f.under("Error creating console devices")
	}
	serial, f := v.openLine(c.Serial.Mode, c.Serial.File, c.Serial.Socket, false)
	if f != nil {
		console.close()
		if v.lost {
			return f
		}
		return f.under("Error creating console devices")
	}
	v.lines = &lines{serial: serial, console: console}
	return nil
}

func (v *vmm) openLine(mode consoleMode, file, socket *rust.Path, virtio bool) (*line, *fault) {
	const failed = "Error creating console device"
	l := &line{fd: -1}
	switch mode {
	case modeTty:
		l.fd = 1
	case modeFile:
		if file == nil {
			return nil, v.panics("a file without a name")
		}
		fd, err := unix.Open(string(*file), unix.O_WRONLY|unix.O_CREAT|unix.O_TRUNC|unix.O_CLOEXEC, 0o666)
		if err != nil {
			return nil, causedBy(err, failed)
		}
		l.fd, l.own = fd, true
	case modeSocket:
		switch {
		case virtio:
			return nil, says("No socket option support for console device")
		case socket == nil:
			return nil, v.panics("a socket without a name")
		}
		var err error
		if l.socket, err = listenLine(string(*socket)); err != nil {
			return nil, causedBy(err, failed)
		}
	case modePty:
		return nil, says("the stand-in has no consoles on terminals of their own")
	}
	return l, nil
}

func (l *lines) close() {
	l.serial.close()
	l.console.close()
}

func (l *line) close() {
	if l.socket != nil {
		l.socket.close()
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.own {
		unix.Close(l.fd)
	}
	l.fd = -1
}

// say writes a line of text, byte by byte if it is not taken in one, since that is how a serial port has it.
func (l *line) say(text string) {
	b := []byte(text + "\r\n")
	if l.socket != nil {
		l.socket.write(b)
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.fd < 0 {
		return
	}
	n, err := unix.Write(l.fd, b)
	if err == nil && n == len(b) {
		return
	}
	for _, c := range b[max(n, 0):] {
		_, _ = unix.Write(l.fd, []byte{c})
	}
}
