package jail_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

const socket = "run/firecracker.socket"

// listen binds a socket whose path may be longer than an address holds.
func listen(t testing.TB, path string) *net.UnixListener {
	t.Helper()
	d, err := os.Open(filepath.Dir(path))
	must(t, err)
	defer d.Close()
	l, err := net.Listen("unix", fmt.Sprintf("/proc/self/fd/%d/%s", d.Fd(), filepath.Base(path)))
	must(t, err)
	l.(*net.UnixListener).SetUnlinkOnClose(false)
	t.Cleanup(func() { l.Close() })
	return l.(*net.UnixListener)
}

// An id of 64 characters makes a path that no address of a socket holds.
func TestDial(t *testing.T) {
	for _, id := range []string{"vm-1", strings.Repeat("a", 64)} {
		t.Run(id, func(t *testing.T) {
			w := newWorldOf(t, id)
			_, err := w.Dial(t.Context(), socket)
			wantErr(t, err, os.ErrNotExist) // no run directory
			must(t, w.Dir("run"))
			_, err = w.Dial(t.Context(), socket)
			wantErr(t, err, os.ErrNotExist)
			if path := filepath.Join(w.root, socket); len(id) == 64 && len(path) <= 108 {
				t.Fatalf("%s has only %d bytes", path, len(path))
			}
			l := listen(t, filepath.Join(w.root, socket))
			conn, err := w.Dial(t.Context(), socket)
			must(t, err)
			defer conn.Close()
			peer, err := l.Accept()
			must(t, err)
			defer peer.Close()
			if _, err := conn.Write([]byte("x")); err != nil {
				t.Error(err)
			}
			if n, err := peer.Read(make([]byte, 8)); n != 1 || err != nil {
				t.Errorf("%d bytes came, %v", n, err)
			}
			l.Close()
			_, err = w.Dial(t.Context(), socket)
			wantErr(t, err, unix.ECONNREFUSED)
			if strings.Contains(err.Error(), "/proc/") {
				t.Errorf("the error names a descriptor: %v", err)
			}
		})
	}
}

func TestDialEndsWithItsContext(t *testing.T) {
	w := newWorld(t)
	must(t, w.Dir("run"))
	listen(t, filepath.Join(w.root, socket))
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := w.Dial(ctx, socket)
	wantErr(t, err, context.Canceled)
}

// Whatever a VMM puts in the place of its socket, metald connects to nothing that lies outside.
func TestDialGoesNowhereElse(t *testing.T) {
	for name, plant := range map[string]func(t *testing.T, w world){
		"a link to a socket": func(t *testing.T, w world) {
			must(t, w.Dir("run"))
			w.plant(t, w.outside+"/firecracker.socket", socket)
		},
		"a link for the directory": func(t *testing.T, w world) { w.plant(t, w.outside, "run") },
		"a link that leads up":     func(t *testing.T, w world) { w.plant(t, "../../../../outside", "run") },
		"a file": func(t *testing.T, w world) {
			must(t, w.Dir("run"))
			write(t, filepath.Join(w.root, socket), "")
		},
		"a FIFO": func(t *testing.T, w world) {
			must(t, w.Dir("run"))
			must(t, w.FIFO(socket))
		},
		"a mount": func(t *testing.T, w world) {
			tmpfs(t, w.root+"/run", 0)
			listen(t, filepath.Join(w.root, socket))
		},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			l := listen(t, w.outside+"/firecracker.socket")
			plant(t, w)
			conn, err := w.Dial(t.Context(), socket)
			if err == nil {
				conn.Close()
				t.Fatal("it connected")
			}
			if errors.Is(err, os.ErrNotExist) || errors.Is(err, unix.ECONNREFUSED) {
				t.Errorf("it looks like a VMM that is not ready yet: %v", err)
			}
			l.SetDeadline(past)
			if _, err := l.Accept(); !os.IsTimeout(err) {
				t.Errorf("somebody came: %v", err)
			}
		})
	}
}
