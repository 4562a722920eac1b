package cloudhypervisor

import (
	"bufio"
	"context"
	"encoding/json"
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

// stub is the stand-in for cloud-hypervisor, built once, by TestMain; "" in a tree that has none, where its tests skip.
var stub string

// hasStub says whether this tree, or what is prebuilt of it, has the stand-in.
func hasStub() bool {
	if dir := os.Getenv("METALD_TEST_STUBS"); dir != "" {
		_, err := os.Stat(filepath.Join(dir, "stub-cloud-hypervisor"))
		return err == nil
	}
	_, err := os.Stat("../stubvmm/cmd/stub-cloud-hypervisor")
	return err == nil
}

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
	if hasStub() {
		if stub, err = stubvmm.BuildCloudHypervisorIn(dir); err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
	}
	code := m.Run()
	if err := goleak.Find(); err != nil && code == 0 {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return code
}

// noContent is how Cloud Hypervisor says that all is well.
const noContent = "HTTP/1.1 204 \r\nServer: Cloud Hypervisor API\r\nConnection: keep-alive\r\n\r\n"

// reply is an answer with a body, as Cloud Hypervisor writes it.
func reply(status int, body string) string {
	return fmt.Sprintf("HTTP/1.1 %d \r\nServer: Cloud Hypervisor API\r\nConnection: keep-alive\r\n"+
		"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n%s", status, len(body), body)
}

// faulty is a refusal: its reasons are a JSON array, the outermost first.
func faulty(status int, reasons ...string) string {
	b, err := json.Marshal(reasons)
	if err != nil {
		panic(err)
	}
	return reply(status, string(b))
}

// seen is a request as it came over the socket.
type seen struct {
	Method, Path, Body string
	Length             int64 // -1 where the client named none
}

// api is the listener of an API, and as strict as Cloud Hypervisor about how a request is written. What it answers is for
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
	dir, err := os.MkdirTemp("", "ch")
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
	c.limit, c.slowLimit = patience, patience
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

// badlyMade is Cloud Hypervisor's refusal of a request whose form is wrong.
func (s seen) badlyMade(req *http.Request) string {
	takesBody, known := routes[s.Method+" "+s.Path]
	switch {
	case !known && slices.ContainsFunc([]string{"GET ", "PUT "}, func(m string) bool { _, ok := routes[m+s.Path]; return ok }):
		return faulty(400, "Bad Request")
	case !known:
		return faulty(404, "Not Found")
	case len(req.TransferEncoding) > 0 || takesBody != (s.Length > 0) || s.Length < 0 && s.Method == http.MethodPut:
		return faulty(400, "Bad Request")
	}
	return ""
}

// routes are what Cloud Hypervisor serves, as far as metald asks for it, and whether it takes a body.
var routes = map[string]bool{
	"GET /api/v1/vmm.ping": false, "PUT /api/v1/vmm.shutdown": false, "PUT /api/v1/vm.create": true,
	"PUT /api/v1/vm.boot": false, "PUT /api/v1/vm.shutdown": false, "PUT /api/v1/vm.power-button": false,
	"PUT /api/v1/vm.pause": false, "PUT /api/v1/vm.resume": false, "PUT /api/v1/vm.delete": false,
	"GET /api/v1/vm.info": false, "GET /api/v1/vm.counters": false, "PUT /api/v1/vm.add-net": true,
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
	return socketNamed(dir, socketName)
}

func socketNamed(dir, name string) func(context.Context) (net.Conn, error) {
	return func(ctx context.Context) (net.Conn, error) { return vmmprocess.Dial(ctx, dir, name) }
}

// waitFor waits for something that is to come by itself.
func waitFor(t *testing.T, so func() bool) {
	t.Helper()
	for deadline := time.Now().Add(patience); !so(); {
		if time.Now().After(deadline) {
			t.Fatal("it did not happen")
		}
		time.Sleep(time.Millisecond)
	}
}
