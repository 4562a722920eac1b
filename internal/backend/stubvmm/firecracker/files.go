package firecracker

import (
	"golang.org/x/sys/unix"
)

// openNonblock opens what is written to: the log, the metrics and the serial console. A FIFO needs no reader, since it
// is opened for reading, too; a file that is not there is made (src/vmm/src/utils/mod.rs).
func openNonblock(path string) (int, error) {
	for {
		fd, err := unix.Open(path, unix.O_RDWR|unix.O_NONBLOCK|unix.O_CREAT|unix.O_CLOEXEC, 0o666)
		if err != unix.EINTR {
			return fd, err
		}
	}
}

// writeFD is one write(2), and what it could not take is an error at once.
func writeFD(fd int, b []byte) (int, error) {
	for {
		n, err := unix.Write(fd, b)
		if err != unix.EINTR {
			return max(n, 0), err
		}
	}
}

func closeFD(fd int) { _ = unix.Close(fd) }
