package cloudhypervisor

import (
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

var (
	v52 = version{Major: 52}
	v53 = version{Major: 53}
)

// joined is what a stream writes that is given the bytes of connections, one after another.
func joined(t *testing.T, v version, before parting, conns ...string) string {
	t.Helper()
	var out bytes.Buffer
	s := newSerialStream(&out, v)
	for i, bytes := range conns {
		how := before
		if i == 0 {
			how = partedNever
		}
		must(t, s.connected(how, time.Second))
		n, err := s.Write([]byte(bytes))
		if err != nil || n != len(bytes) {
			t.Fatalf("wrote %d of %d: %v", n, len(bytes), err)
		}
	}
	return out.String()
}

func TestSerialConnectionsAreJoined(t *testing.T) {
	full := strings.Repeat("x", serialKept)
	for name, c := range map[string]struct {
		v      version
		before parting
		conns  []string
		want   string
	}{
		"parted well":           {v53, partedWell, []string{"one ", "two"}, "one two"},
		"nothing kept":          {v53, partedWell, []string{"one ", "", "two"}, "one two"},
		"the reader died":       {v53, partedHard, []string{"one", "two"}, "one\r\n[metald: the reader of the console ended: what had been sent to it and was not yet written here is missing]\r\ntwo"},
		"nothing kept in 52":    {v52, partedWell, []string{"one", "two"}, "one\r\n[metald: the console was not read for 1s: what the guest printed meanwhile is missing]\r\ntwo"},
		"nearly full":           {v53, partedWell, []string{"a", full[1:]}, "a" + full[1:]},
		"full":                  {v53, partedWell, []string{"a", full + "b"}, "a" + full + "\r\n[metald: the last 1 MiB was read after nobody had been reading: what the guest had printed before it may be missing]\r\nb"},
		"much, from the begin":  {v53, partedWell, []string{full + full}, full + full},
		"much, first of v52":    {v52, partedWell, []string{full + full}, full + full},
		"much over connections": {v53, partedWell, []string{"", full[1:], full[1:]}, full[1:] + full[1:]},
	} {
		t.Run(name, func(t *testing.T) {
			if got := joined(t, c.v, c.before, c.conns...); got != c.want {
				t.Errorf("%d bytes, want %d; got the end %q", len(got), len(c.want), got[max(0, len(got)-300):])
			}
		})
	}
}

// After settled any amount is the guest's own.
func TestSettledSerialIsNotSuspected(t *testing.T) {
	var out bytes.Buffer
	s := newSerialStream(&out, v53)
	must(t, s.connected(partedWell, 0))
	s.settled()
	s.Write(make([]byte, 2*serialKept))
	if out.Len() != 2*serialKept {
		t.Errorf("%d bytes", out.Len())
	}
}

// port serves a serial socket as 53.0 does: what no client took is kept, the last of it, and goes out with the guest's
// next byte or to the next client.
type port struct {
	listener *net.UnixListener

	mu   sync.Mutex // guards everything below
	kept []byte
	room int // what is kept at most
	conn *net.UnixConn
	gone bool // the thread ended, because a client reset its connection
}

func openPort(t *testing.T, room int) *port {
	t.Helper()
	dir, err := os.MkdirTemp("", "m")
	must(t, err)
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: filepath.Join(dir, "s"), Net: "unix"})
	must(t, err)
	p := &port{listener: l, room: room}
	var serving sync.WaitGroup
	serving.Go(func() {
		for {
			conn, err := l.AcceptUnix()
			if err != nil {
				return
			}
			p.attach(conn)
			serving.Go(func() { p.watch(conn) })
		}
	})
	t.Cleanup(func() {
		l.Close()
		p.mu.Lock()
		if p.conn != nil {
			p.conn.Close()
		}
		p.mu.Unlock()
		serving.Wait()
		os.RemoveAll(dir)
	})
	return p
}

func (p *port) attach(conn *net.UnixConn) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.conn != nil {
		p.conn.Close()
	}
	p.conn = conn
	p.flush()
}

func (p *port) watch(conn *net.UnixConn) {
	_, err := conn.Read(make([]byte, 1))
	p.mu.Lock()
	defer p.mu.Unlock()
	if errors.Is(err, unix.ECONNRESET) {
		p.gone = true
	}
	if p.conn == conn {
		p.conn = nil
	}
	conn.Close()
}

// flush sends what is kept as far as there is room.
func (p *port) flush() {
	raw, _ := p.conn.SyscallConn()
	for len(p.kept) > 0 {
		var err error
		raw.Control(func(fd uintptr) {
			_, err = unix.SendmsgN(int(fd), p.kept[:1], nil, nil, unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL)
		})
		if err != nil {
			return
		}
		p.kept = p.kept[1:]
	}
}

func (p *port) print(text string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.kept = append(p.kept, text...)
	p.kept = p.kept[max(0, len(p.kept)-p.room):]
	if p.conn != nil {
		p.flush()
	}
}

func (p *port) dial(t *testing.T) *net.UnixConn {
	t.Helper()
	conn, err := net.DialUnix("unix", nil, p.listener.Addr().(*net.UnixAddr))
	must(t, err)
	return conn
}

// Over any number of reconnects in good order, all that the guest printed is there once and in order.
func TestSerialLosesNothingOverReconnects(t *testing.T) {
	p := openPort(t, serialKept)
	var out, want bytes.Buffer
	s := newSerialStream(&out, v53)
	rnd := rand.New(rand.NewPCG(1, 2))
	before := partedNever
	for i := range 30 {
		print := func() {
			text := strings.Repeat(string(rune('a'+i%26)), rnd.IntN(2000)) + "\n"
			want.WriteString(text)
			p.print(text)
		}
		print() // while nobody reads
		conn := p.dial(t)
		must(t, s.connected(before, 0))
		print()
		buf := make([]byte, rnd.IntN(500))
		n, _ := io.ReadAtLeast(conn, buf, min(1, len(buf)))
		s.Write(buf[:n])
		print()
		var err error
		before, err = letGo(conn, s, 5*time.Second)
		must(t, err)
		waitFor(t, func() bool { p.mu.Lock(); defer p.mu.Unlock(); return p.conn == nil })
	}
	for conn := p.dial(t); out.Len() < want.Len(); {
		must(t, conn.SetReadDeadline(time.Now().Add(5*time.Second)))
		buf := make([]byte, 4096)
		n, err := conn.Read(buf)
		must(t, err)
		s.Write(buf[:n])
		p.print("")
		if out.Len() == want.Len() {
			_, err := letGo(conn, s, 5*time.Second)
			must(t, err)
		}
	}
	if !bytes.Equal(out.Bytes(), want.Bytes()) {
		t.Errorf("%d bytes, want %d", out.Len(), want.Len())
	}
	if p.mu.Lock(); p.gone {
		t.Error("a connection was reset")
	}
	p.mu.Unlock()
}

// That is why a connection is not simply closed.
func TestClosingWithBytesUnreadResets(t *testing.T) {
	p := openPort(t, serialKept)
	conn := p.dial(t)
	p.print("unread")
	waitFor(t, func() bool { p.mu.Lock(); defer p.mu.Unlock(); return len(p.kept) == 0 })
	must(t, conn.Close())
	waitFor(t, func() bool { p.mu.Lock(); defer p.mu.Unlock(); return p.gone })
}

// A VMM that doesn't end the connection is not waited for beyond the limit, and what came is there.
func TestPartingHasALimit(t *testing.T) {
	dir, err := os.MkdirTemp("", "m")
	must(t, err)
	defer os.RemoveAll(dir)
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: filepath.Join(dir, "s"), Net: "unix"})
	must(t, err)
	defer l.Close()
	conn, err := net.DialUnix("unix", nil, l.Addr().(*net.UnixAddr))
	must(t, err)
	mute, err := l.AcceptUnix()
	must(t, err)
	defer mute.Close()
	_, err = mute.Write([]byte("last words"))
	must(t, err)
	var out bytes.Buffer
	how, err := letGo(conn, &out, 50*time.Millisecond)
	if how != partedHard || !errors.Is(err, os.ErrDeadlineExceeded) || out.String() != "last words" {
		t.Errorf("parted %d with %q: %v", how, &out, err)
	}
}
