package cloudhypervisor

import (
	"errors"
	"fmt"
	"io"
	"time"

	"golang.org/x/sys/unix"
)

// How Cloud Hypervisor 53.0 serves its serial socket (vmm/src/serial_manager.rs, serial_buffer/src/lib.rs):
//
//   - Every byte of the guest goes to one client once. What no client's connection took is kept, the last 1 MiB of it, and
//     goes to the next that connects; nothing is said twice. So there is nothing to be left out after a reconnect.
//   - A new client replaces the one before, whose connection ends after the bytes that it was sent. To read the old
//     connection to its end and then the new one is to read all there is, in order.
//   - What finds the connection full is kept, and goes out behind the guest's next byte, or to the next client, and not
//     when there is room again. A connection takes some 280 bytes that come one by one; so it has to be read at once, and
//     the last words of a burst can stay in the VMM. A new connection fetches them.
//   - A client that closes with bytes unread resets the connection, and the thread that serves the socket takes that for
//     the end: from then on nobody is sent anything, though connecting works. One that ends its own direction first, and
//     then reads up to the end, parts well.
//   - A reboot of the guest makes a new socket, and a new memory of 1 MiB. What the old had not sent is gone.
//
// Before version 53 what the guest printed while there was no client was lost, and a full connection held up the guest.

// serialKept is how much Cloud Hypervisor keeps for the next client, in bytes.
const serialKept = 1 << 20

// parting is how a connection to the serial socket ended, as far as the one that follows is to know.
type parting uint8

const (
	// partedNever is for the first connection to a socket that has just been made, before the guest ran.
	partedNever parting = iota
	// partedWell is for one that was read to its end: by letGo, or because the VMM ended it.
	partedWell
	// partedHard is for one that ended with its reader, or nobody knows how.
	partedHard
)

// serialStream joins what comes over the connections to a serial socket, one after another, into one stream, and marks
// where something is missing or may be. It is the writer that a connection is drained into.
//
// It promises: nothing is written twice. Up to 1 MiB that the guest prints between a connection that parted well and the
// next is all there, in its place, and there is no mark. A mark stands where bytes were lost, or where that cannot be
// known; it can stand without need, where a reader died at a moment at which there was nothing to lose, or where exactly
// what is kept had been printed. It belongs to one goroutine.
type serialStream struct {
	out   io.Writer
	keeps bool // as version.keepsSerial

	fromKept int64 // bytes of this connection that may have been kept for it; -1 once it is clear how many there were
}

// newSerialStream returns a stream into out from a Cloud Hypervisor of version v.
func newSerialStream(out io.Writer, v version) *serialStream {
	return &serialStream{out: out, keeps: v.keepsSerial(), fromKept: -1}
}

// connected begins the bytes of a new connection. The one before ended in the way given; away is how long nobody was
// connected, 0 where that isn't known.
func (s *serialStream) connected(before parting, away time.Duration) error {
	s.fromKept = -1
	if before == partedNever {
		return nil
	}
	if s.keeps {
		s.fromKept = 0
		if before == partedWell {
			return nil
		}
		return s.mark("the reader of the console ended: what had been sent to it and was not yet written here is missing")
	}
	if away > 0 {
		return s.mark(fmt.Sprintf("the console was not read for %s: what the guest printed meanwhile is missing", away.Round(time.Millisecond)))
	}
	return s.mark("the console was not read for a while: what the guest printed meanwhile is missing")
}

// Write takes what came over the connection. Once as much came as Cloud Hypervisor keeps at most, it says that there may
// have been more: where the kept bytes end and new ones begin cannot be seen. settled ends the suspicion.
func (s *serialStream) Write(p []byte) (int, error) {
	if s.fromKept < 0 || s.fromKept+int64(len(p)) < serialKept {
		if s.fromKept >= 0 {
			s.fromKept += int64(len(p))
		}
		return s.out.Write(p)
	}
	n := int(serialKept - s.fromKept)
	s.fromKept = -1
	if written, err := s.out.Write(p[:n]); err != nil {
		return written, err
	}
	if err := s.mark("the last 1 MiB was read after nobody had been reading: what the guest had printed before it may be missing"); err != nil {
		return n, err
	}
	written, err := s.out.Write(p[n:])
	return n + written, err
}

// settled says that all bytes that were kept for this connection have come: another connection was made after it, and
// this one was read to its end, or the guest has rebooted. What comes from now on is new.
func (s *serialStream) settled() { s.fromKept = -1 }

// mark writes a line of metald's own into the guest's output.
func (s *serialStream) mark(text string) error {
	_, err := fmt.Fprintf(s.out, "\r\n[metald: %s]\r\n", text)
	return err
}

// serialConn is what letGo needs of a connection: a *net.UnixConn has it.
type serialConn interface {
	io.ReadCloser
	CloseWrite() error
	SetReadDeadline(time.Time) error
}

// letGo ends a connection so that nothing is lost and the next client finds everything: metald says that it will send no
// more, Cloud Hypervisor ends the connection, and what it had sent is written to out. Within limit it is partedWell;
// after an error it is partedHard. Nobody else reads the connection meanwhile.
func letGo(conn serialConn, out io.Writer, limit time.Duration) (parting, error) {
	defer conn.Close()
	if err := conn.SetReadDeadline(time.Now().Add(limit)); err != nil {
		return partedHard, fmt.Errorf("part from the serial socket: %w", err)
	}
	if err := conn.CloseWrite(); err != nil && !errors.Is(err, unix.ENOTCONN) {
		return partedHard, fmt.Errorf("part from the serial socket: %w", err)
	}
	if _, err := io.Copy(out, conn); err != nil {
		return partedHard, fmt.Errorf("part from the serial socket: %w", err)
	}
	return partedWell, nil
}
