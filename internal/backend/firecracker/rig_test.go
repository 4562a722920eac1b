package firecracker

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/unkeyed/unkey/go/deploy/metald/internal/backend/stubvmm"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/vmmprocess"
)

// patience bounds every wait of these tests, and the calls of their clients.
const patience = 20 * time.Second

// stubs are built once, by TestMain.
var stubs struct{ Firecracker, Jailer string }

func TestMain(m *testing.M) {
	if dir := os.Getenv(metaldEnv); dir != "" {
		panic(playMetald(dir))
	}
	os.Exit(run(m))
}

func run(m *testing.M) int {
	dir, err := os.MkdirTemp("", "stub")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	if stubs.Firecracker, err = stubvmm.BuildFirecrackerIn(dir); err == nil {
		stubs.Jailer, err = stubvmm.BuildJailerIn(dir)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	code := m.Run()
	if err := goleak.Find(); err != nil && code == 0 {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return code
}

// noContent is how Firecracker says that all is well.
const noContent = "HTTP/1.1 204 \r\nServer: Firecracker API\r\nConnection: keep-alive\r\n\r\n"

// reply is an answer with a body, as Firecracker writes it.
func reply(status int, body string) string {
	return fmt.Sprintf("HTTP/1.1 %d \r\nServer: Firecracker API\r\nConnection: keep-alive\r\n"+
		"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n%s", status, len(body), body)
}

func faulty(message string) string { return reply(400, fmt.Sprintf("{\"fault_message\":%q}", message)) }

// seen is a request as it came over the socket.
type seen struct {
	Method, Path, Body string
	Length             int64 // -1 where the client named none
}

// api is the listener of an API, and as strict as Firecracker about how a request is written. What it answers is for
// answer to say; "" is silence.
type api struct {
	t        *testing.T
	dir      string
	listener net.Listener
	answer   func(seen) string
	serving  sync.WaitGroup

	mu       sync.Mutex // guards everything below
	requests []seen
	conns    []net.Conn
}

const socketName = "api.sock"

// serve starts an API whose answers to well-made requests are answer's.
func serve(t *testing.T, answer func(seen) string) *api {
	t.Helper()
	dir, err := os.MkdirTemp("", "fc")
	must(t, err)
	listener, err := net.Listen("unix", filepath.Join(dir, socketName))
	must(t, err)
	a := &api{t: t, dir: dir, listener: listener, answer: answer}
	a.serving.Go(a.accept)
	t.Cleanup(a.stop)
	return a
}

// client returns a client of the API that gives up after patience.
func (a *api) client() *client {
	c := newClient(socketIn(a.dir))
	c.limit = patience
	a.t.Cleanup(c.close)
	return c
}

func (a *api) accept() {
	for {
		conn, err := a.listener.Accept()
		if err != nil {
			return
		}
		a.mu.Lock()
		a.conns = append(a.conns, conn)
		a.mu.Unlock()
		a.serving.Go(func() { a.talk(conn) })
	}
}

func (a *api) talk(conn net.Conn) {
	defer conn.Close()
	for in := bufio.NewReader(conn); ; {
		req, err := http.ReadRequest(in)
		if err != nil {
			return
		}
		body, err := io.ReadAll(req.Body)
		if err != nil {
			return
		}
		s := seen{Method: req.Method, Path: req.URL.Path, Body: string(body), Length: req.ContentLength}
		a.mu.Lock()
		a.requests = append(a.requests, s)
		a.mu.Unlock()
		answer := s.badlyMade(req)
		if answer == "" {
			answer = a.answer(s)
		}
		if answer == "" {
			io.Copy(io.Discard, in) // until the client has had enough
			return
		}
		if _, err := io.WriteString(conn, answer); err != nil || strings.HasPrefix(answer, half) {
			return
		}
	}
}

// half starts an answer after which the connection ends.
const half = "HTTP/1.1 200 \r\nContent-Length: 1000\r\n"

// badlyMade is Firecracker's refusal of a request whose form is wrong.
func (s seen) badlyMade(req *http.Request) string {
	withBody := s.Method == http.MethodPut || s.Method == http.MethodPatch
	switch {
	case len(req.TransferEncoding) > 0 || withBody && s.Length <= 0:
		return faulty("Empty " + s.Method + " request.")
	case !withBody && s.Length != 0:
		return faulty(s.Method + " request cannot have a body.")
	case !slices.Contains(routes, s.Method+" "+firstToken(s.Path)):
		return faulty("Invalid request method and/or path: " + s.Method + " " + firstToken(s.Path) + ".")
	}
	return ""
}

// routes are what Firecracker serves, as far as metald asks for it.
var routes = []string{
	"GET /", "GET /version", "GET /vm", "PUT /serial", "PUT /metrics", "PUT /machine-config", "PUT /boot-source",
	"PUT /drives", "PUT /network-interfaces", "PUT /entropy", "PUT /actions", "PATCH /vm",
}

func firstToken(path string) string {
	token, _, _ := strings.Cut(strings.TrimPrefix(path, "/"), "/")
	return "/" + token
}

func (a *api) got() []seen {
	a.mu.Lock()
	defer a.mu.Unlock()
	return slices.Clone(a.requests)
}

func (a *api) connections() int {
	a.mu.Lock()
	defer a.mu.Unlock()
	return len(a.conns)
}

func (a *api) stop() {
	a.listener.Close()
	a.mu.Lock()
	for _, conn := range a.conns {
		conn.Close()
	}
	a.mu.Unlock()
	a.serving.Wait()
	os.RemoveAll(a.dir)
}

func patient(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	t.Cleanup(cancel)
	return ctx
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// socketIn dials the socket of an API in dir.
func socketIn(dir string) func(context.Context) (net.Conn, error) {
	return func(ctx context.Context) (net.Conn, error) { return vmmprocess.Dial(ctx, dir, socketName) }
}
