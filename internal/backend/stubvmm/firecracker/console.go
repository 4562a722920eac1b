package firecracker

import (
	"strings"
	"sync"

	"golang.org/x/sys/unix"
)

// console is the guest's serial port. What is not taken at once is lost.
type console struct {
	metrics *metrics
	mu      sync.Mutex // of a line
	fd      int
}

// openConsole opens the port; a guest whose kernel was not told of it says nothing there.
func (v *vmm) openConsole(cmdline string) (*console, error) {
	fd := 1
	if v.serial.SerialOutPath != nil {
		var err error
		if fd, err = openNonblock(string(*v.serial.SerialOutPath)); err != nil {
			return nil, err
		}
	} else {
		_ = unix.SetNonblock(1, true) // for everybody who has it, which is how Firecracker does it
	}
	words := strings.Fields(cmdline)
	heard := false
	for _, w := range words {
		heard = heard || w == "console=ttyS0" || strings.HasPrefix(w, "console=ttyS0,")
		if w == "8250.nr_uarts=0" {
			return nil, nil
		}
	}
	if !heard {
		return nil, nil
	}
	return &console{metrics: v.metrics, fd: fd}, nil
}

// say writes a line, byte by byte if it is not taken in one, since that is how a serial port has it.
func (c *console) say(line string) {
	if c == nil {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	b := []byte(line + "\r\n")
	n, err := writeFD(c.fd, b)
	c.metrics.add("uart.write_count", uint64(n))
	for b = b[n:]; len(b) > 0; b = b[1:] {
		if err == nil || err == unix.EAGAIN {
			_, err = writeFD(c.fd, b[:1])
		}
		if err != nil {
			c.metrics.add("uart.missed_write_count", uint64(len(b)))
			c.metrics.add("uart.error_count", uint64(len(b)))
			return
		}
		c.metrics.inc("uart.write_count")
	}
}
