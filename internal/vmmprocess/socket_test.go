package vmmprocess

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// longDir returns a directory whose path alone is longer than a socket address holds.
func longDir(t *testing.T) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), strings.Repeat("d", 200))
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	return dir
}

// shortDir returns one whose path is short.
func shortDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "m")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

func TestListenAndDial(t *testing.T) {
	for name, dir := range map[string]string{"short": shortDir(t), "long": longDir(t)} {
		t.Run(name, func(t *testing.T) {
			before := openFiles(t)
			f, err := Listen(dir, "api.sock")
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			path := filepath.Join(dir, "api.sock")
			if info, err := os.Lstat(path); err != nil || info.Mode() != os.ModeSocket|0o600 {
				t.Errorf("socket %v (%v), want mode 0600", info, err)
			}
			// A client need not wait for the VMM.
			client, err := Dial(t.Context(), dir, "api.sock")
			if err != nil {
				t.Fatal(err)
			}
			defer client.Close()
			l, err := net.FileListener(f)
			if err != nil {
				t.Fatal(err)
			}
			server, err := l.Accept()
			if err != nil {
				t.Fatal(err)
			}
			io.WriteString(server, "hello")
			server.Close()
			if b, err := io.ReadAll(client); err != nil || string(b) != "hello" {
				t.Errorf("%q (%v), want hello", b, err)
			}
			l.(*net.UnixListener).SetUnlinkOnClose(false)
			l.Close()
			f.Close()
			client.Close()
			if _, err := os.Lstat(path); err != nil {
				t.Errorf("the socket's name went with the listener: %v", err)
			}
			if _, err := Listen(dir, "api.sock"); !errors.Is(err, unix.EADDRINUSE) {
				t.Errorf("a name that exists: %v, want %v", err, unix.EADDRINUSE)
			}
			if _, err := Dial(t.Context(), dir, "api.sock"); !errors.Is(err, syscall.ECONNREFUSED) {
				t.Errorf("nobody listens: %v, want %v", err, syscall.ECONNREFUSED)
			}
			if _, err := Dial(t.Context(), dir, "none.sock"); !errors.Is(err, os.ErrNotExist) {
				t.Errorf("no socket: %v, want %v", err, os.ErrNotExist)
			}
			canceled, cancel := context.WithCancel(t.Context())
			cancel()
			if _, err := Dial(canceled, dir, "api.sock"); err == nil {
				t.Error("a context that has ended is not looked at")
			}
			if n := openFiles(t); n > before {
				t.Errorf("%d open files, were %d", n, before)
			}
		})
	}
}

func TestSocketNames(t *testing.T) {
	dir := shortDir(t)
	for _, name := range []string{"", ".", "..", "a/b", "../x", "a\x00b", strings.Repeat("n", 108)} {
		if f, err := Listen(dir, name); err == nil {
			f.Close()
			t.Errorf("listen on %q went well", name)
		}
		if c, err := Dial(t.Context(), dir, name); err == nil {
			c.Close()
			t.Errorf("connect to %q went well", name)
		}
	}
	wantEmpty(t, dir)
}

// playRelisten calls listen(2) on the file it was passed, says so, and accepts one client.
func playRelisten() {
	if err := syscall.Listen(FirstFile, 1); err != nil {
		panic(err)
	}
	os.NewFile(FirstFile+1, "ready").WriteString("run")
	fd, _, err := syscall.Accept(FirstFile)
	if err != nil {
		panic(err)
	}
	_, _ = io.Copy(io.Discard, os.NewFile(uintptr(fd), "client"))
}

func TestPeerOfAPassedListener(t *testing.T) {
	s := newSupervisor(t)
	dir := longDir(t)
	f, err := Listen(dir, "api.sock")
	if err != nil {
		t.Fatal(err)
	}
	if pid := peerOf(t, dir); pid != os.Getpid() {
		t.Errorf("before the VMM listens the peer is %d, want metald, %d", pid, os.Getpid())
	}
	readyR, readyW := pipe(t)
	c := Command{Path: self(t), Env: []string{roleEnv + "=relisten"}, Files: []*os.File{f, readyW}}
	p, err := s.Start(t.Context(), c, accept)
	if err != nil {
		t.Fatal(err)
	}
	cleanUp(t, p)
	f.Close()
	readyW.Close()
	if _, err := readyR.Read(make([]byte, 3)); err != nil {
		t.Fatal(err)
	}
	if pid := peerOf(t, dir); pid != p.Identity().PID {
		t.Errorf("the peer is %d, want the VMM, %d", pid, p.Identity().PID)
	}
}

// QEMU calls listen(2) on a listener that it is passed, so its peer check works.
func TestPeerOfQEMU(t *testing.T) {
	path, err := exec.LookPath("qemu-system-x86_64")
	if err != nil {
		t.Skip("there is no qemu-system-x86_64 on this machine")
	}
	s := newSupervisor(t)
	dir := longDir(t)
	f, err := Listen(dir, "api.sock")
	if err != nil {
		t.Fatal(err)
	}
	log := filepath.Join(dir, "log")
	p, err := s.Start(t.Context(), Command{
		Path: path,
		Args: []string{"-machine", "none", "-nodefaults", "-no-user-config", "-display", "none", "-S",
			"-chardev", "socket,id=qmp,fd=4,server=on,wait=off", "-mon", "chardev=qmp,mode=control"},
		Files:  []*os.File{f},
		Stderr: log,
	}, accept)
	if err != nil {
		t.Fatal(err)
	}
	cleanUp(t, p)
	f.Close()
	// It is connected before QEMU has come up; the greeting comes once it has.
	conn, err := Dial(t.Context(), dir, "api.sock")
	if err != nil {
		t.Fatal(err)
	}
	conn.SetReadDeadline(time.Now().Add(limit))
	line, err := bufio.NewReader(conn).ReadString('\n')
	conn.Close()
	if err != nil || !strings.Contains(line, "QMP") {
		b, _ := os.ReadFile(log)
		t.Fatalf("greeting %q (%v), QEMU says %q", line, err, b)
	}
	if pid := peerOf(t, dir); pid != p.Identity().PID {
		t.Errorf("the peer is %d, want QEMU, %d", pid, p.Identity().PID)
	}
}

func peerOf(t *testing.T, dir string) int {
	t.Helper()
	conn, err := Dial(t.Context(), dir, "api.sock")
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	pid, err := PeerPID(conn)
	if err != nil {
		t.Fatal(err)
	}
	return pid
}
