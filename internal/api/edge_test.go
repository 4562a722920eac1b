package api

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"connectrpc.com/connect"

	pb "github.com/unkeyed/unkey/go/deploy/metald/gen/vmprovisioner/v1"
	"github.com/unkeyed/unkey/go/deploy/metald/gen/vmprovisioner/v1/vmprovisionerv1connect"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/vm/lifecycle"
)

func TestContentTypes(t *testing.T) {
	s := serve(t, nil)
	for _, tc := range []struct {
		contentType string
		status      int
	}{
		{"application/json", 200},
		{"application/json; charset=utf-8", 200},
		{"Application/JSON", 200},
		{"", 415},
		{"text/plain", 415},
		{"text/json", 415},
		{"application/x-www-form-urlencoded", 415},
		{"multipart/form-data; boundary=x", 415},
	} {
		a := s.do(t, s.request(t, "ListVms", tc.contentType, strings.NewReader("{}")))
		if a.status != tc.status {
			t.Errorf("%q: status %d, want %d: %s", tc.contentType, a.status, tc.status, a.body)
		}
		if a.status == 415 && !strings.Contains(a.body, "Content-Type: application/json") {
			t.Errorf("%q: the answer does not tell the header to send: %q", tc.contentType, a.body)
		}
	}
}

func TestStrictJSONHasOneMeaningForBothJSONTypes(t *testing.T) {
	s := serve(t, nil)
	for _, contentType := range []string{"application/json", "application/json; charset=utf-8"} {
		a := s.do(t, s.request(t, "ListVms", contentType, strings.NewReader(`{"typo":1}`)))
		if a.Code != "invalid_argument" || a.fields() != "typo" {
			t.Errorf("%s: %s", contentType, a.body)
		}
	}
}

func TestOnlyPostCallsAnRPC(t *testing.T) {
	s := serve(t, nil)
	for _, method := range []string{http.MethodGet, http.MethodPut, http.MethodDelete, http.MethodOptions} {
		req := s.request(t, "ListVms?encoding=json&message=%7B%7D", "", nil)
		req.Method = method
		a := s.do(t, req)
		if a.status != http.StatusMethodNotAllowed {
			t.Errorf("%s: status %d", method, a.status)
		}
		for name := range a.header {
			if strings.HasPrefix(name, "Access-Control-") {
				t.Errorf("%s: the answer has %s", method, name)
			}
		}
	}
}

func TestHostNames(t *testing.T) {
	s := serve(t, func(c *Config) { c.AllowedHosts = []string{"metald.example"} })
	for host, status := range map[string]int{
		"localhost": 200, "localhost:1234": 200, "LOCALHOST.": 200, "127.0.0.1:8080": 200, "127.0.0.2": 200,
		"[::1]:8080": 200, "[::1]": 200, "metald.example": 200, "Metald.Example:443": 200,
		"evil.example": 403, "evil.example:8080": 403, "localhost.evil.example": 403, "10.0.0.1": 403, "localhost@evil.example": 403,
	} {
		req := s.request(t, "ListVms", "application/json", strings.NewReader("{}"))
		req.Host = host
		a := s.do(t, req)
		if a.status != status {
			t.Errorf("Host %q: status %d, want %d", host, a.status, status)
		}
		if a.status == 403 && !strings.Contains(a.body, AllowedHostsSetting) {
			t.Errorf("Host %q: the answer does not name the setting: %s", host, a.body)
		}
	}
}

func TestHostNameIsAskedOfHealthToo(t *testing.T) {
	s := serve(t, nil)
	req, err := http.NewRequest(http.MethodGet, s.url+"/healthz", nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Host = "evil.example"
	if a := s.do(t, req); a.status != 403 {
		t.Errorf("status %d", a.status)
	}
}

func gzipped(t testing.TB, data []byte) *bytes.Buffer {
	t.Helper()
	var buf bytes.Buffer
	w, err := gzip.NewWriterLevel(&buf, gzip.BestSpeed)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write(data); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return &buf
}

func TestLargeRequestsAreRefused(t *testing.T) {
	s := serve(t, nil)
	padded := func(n int) []byte { return append(bytes.Repeat([]byte(" "), n), quickStart...) }
	for _, tc := range []struct {
		name    string
		body    io.Reader
		gzipped bool
		status  int
		code    string
	}{
		{"200 KiB", bytes.NewReader(padded(200 << 10)), false, 200, ""},
		{"300 KiB", bytes.NewReader(padded(300 << 10)), false, 429, "resource_exhausted"},
		{"5 MiB", bytes.NewReader(padded(5 << 20)), false, 429, "resource_exhausted"},
		{"5 MiB of unknown length", io.MultiReader(bytes.NewReader(padded(5 << 20))), false, 429, "resource_exhausted"},
		{"gzipped", gzipped(t, padded(200<<10)), true, 200, ""},
		{"gzip bomb", gzipped(t, padded(16<<20)), true, 429, "resource_exhausted"},
		{"not gzip", strings.NewReader(quickStart), true, 400, "invalid_argument"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			req := s.request(t, "CreateVm", "application/json", tc.body)
			if tc.gzipped {
				req.Header.Set("Content-Encoding", "gzip")
			}
			if a := s.do(t, req); a.status != tc.status || a.Code != tc.code {
				t.Errorf("status %d, code %q, want %d %q: %.200s", a.status, a.Code, tc.status, tc.code, a.body)
			}
		})
	}
	if !strings.Contains(s.log.String(), `"status":429`) {
		t.Error("a request that was too large left no line in the log")
	}
}

// endless is a body that does not end.
type endless struct{ sent atomic.Int64 }

func (e *endless) Read(p []byte) (int, error) {
	for i := range p {
		p[i] = ' '
	}
	e.sent.Add(int64(len(p)))
	return len(p), nil
}

func TestAnEndlessBodyIsNotReadOn(t *testing.T) {
	s := serve(t, nil)
	var body endless
	req := s.request(t, "CreateVm", "application/json", &body)
	if a := s.do(t, req); a.Code != "resource_exhausted" {
		t.Errorf("%d %s", a.status, a.body)
	}
	if sent := body.sent.Load(); sent > 32<<20 {
		t.Errorf("%d bytes of it were taken", sent)
	}
}

func TestAGzipBombIsNotInflated(t *testing.T) {
	s := serve(t, nil)
	bomb := gzipped(t, bytes.Repeat([]byte(" "), 32<<20))
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	req := s.request(t, "CreateVm", "application/json", bomb)
	req.Header.Set("Content-Encoding", "gzip")
	if a := s.do(t, req); a.Code != "resource_exhausted" || !strings.Contains(a.Message, "when decompressed") {
		t.Errorf("%s", a.body)
	}
	runtime.ReadMemStats(&after)
	if grown := after.TotalAlloc - before.TotalAlloc; grown > 10<<20 {
		t.Errorf("refusing it allocated %d bytes", grown)
	}
}

func TestOnlyLargeAnswersAreCompressed(t *testing.T) {
	s := serve(t, nil)
	s.create(t, "small")
	list := func() string {
		req := s.request(t, "ListVms", "application/json", strings.NewReader(`{"page_size":1000}`))
		req.Header.Set("Accept-Encoding", "gzip")
		a := s.do(t, req)
		if a.status != 200 {
			t.Fatal(a.body)
		}
		return a.header.Get("Content-Encoding")
	}
	if got := list(); got != "" {
		t.Errorf("a list of one VM came as %q", got)
	}
	for i := range 60 {
		s.create(t, fmt.Sprintf("vm-%d", i))
	}
	if got := list(); got != "gzip" {
		t.Errorf("a list of 61 VMs came as %q", got)
	}
}

func TestAPanicIsAnInternalErrorAndIsLogged(t *testing.T) {
	s := serve(t, nil)
	s.vms.before = func(context.Context) error { panic("the secret of the handler") }
	a := s.post(t, "BootVm", `{"vm_id":"known"}`)
	if a.status != 500 || a.Code != "internal" || strings.Contains(a.body, "secret") {
		t.Errorf("status %d: %s", a.status, a.body)
	}
	log := s.log.String()
	if !strings.Contains(log, "the secret of the handler") || !strings.Contains(log, "fake_test.go") {
		t.Errorf("the log has no stack: %s", log)
	}
	s.vms.before = nil
	s.create(t, "after")
}

func TestAPanicOutsideOfAnRPCIsAnsweredToo(t *testing.T) {
	s := serve(t, func(c *Config) { c.Status = func() []ComponentStatus { panic("the secret of the probe") } })
	req, err := http.NewRequest(http.MethodGet, s.url+"/readyz", nil)
	if err != nil {
		t.Fatal(err)
	}
	if a := s.do(t, req); a.status != 500 || strings.Contains(a.body, "secret") {
		t.Errorf("status %d: %s", a.status, a.body)
	}
	if !strings.Contains(s.log.String(), "the secret of the probe") {
		t.Error("not logged")
	}
}

func TestAFailedCallLeavesOneLine(t *testing.T) {
	s := serve(t, nil)
	s.vms.fail = fmt.Errorf("open /var/lib/metald/x: %w", errors.New("line one\nline two"))
	a := s.post(t, "BootVm", `{"vm_id":"known"}`)
	if a.Code != "internal" || strings.Contains(a.body, "/var/lib") {
		t.Errorf("%s", a.body)
	}
	log := strings.TrimSpace(s.log.String())
	if strings.Count(log, "\n") != 0 {
		t.Errorf("more than one line: %s", log)
	}
	for _, want := range []string{`"level":"ERROR"`, `"code":"internal"`, `"vm_id":"known"`, "/var/lib/metald/x", "BootVm"} {
		if !strings.Contains(log, want) {
			t.Errorf("no %s in %s", want, log)
		}
	}
	s.vms.fail = nil
	before := s.log.String()
	s.create(t, "fine")
	if s.log.String() != before {
		t.Error("a call that succeeded was logged as failed")
	}
}

func TestHealthAndReadiness(t *testing.T) {
	var fault error
	s := serve(t, func(c *Config) {
		c.Status = func() []ComponentStatus {
			return []ComponentStatus{{Name: "store"}, {Name: "backend", Err: fault, Note: "one of two"}}
		}
	})
	get := func(path string) answer {
		req, err := http.NewRequest(http.MethodGet, s.url+path, nil)
		if err != nil {
			t.Fatal(err)
		}
		return s.do(t, req)
	}
	grpcHealth := func(service string) answer {
		req, err := http.NewRequest(http.MethodPost, s.url+"/grpc.health.v1.Health/Check", strings.NewReader(fmt.Sprintf(`{"service":%q}`, service)))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Content-Type", "application/json")
		return s.do(t, req)
	}
	if a := get("/healthz"); a.status != 200 {
		t.Errorf("/healthz: %d", a.status)
	}
	if a := get("/readyz"); a.status != 200 || a.body != "ready\nbackend: one of two\n" {
		t.Errorf("/readyz: %d %q", a.status, a.body)
	}
	for _, service := range []string{"", "vmprovisioner.v1.VmService"} {
		if a := grpcHealth(service); !strings.Contains(a.body, `"SERVING`) {
			t.Errorf("health of %q: %s", service, a.body)
		}
	}
	if a := grpcHealth("other"); a.Code != "not_found" {
		t.Errorf("health of another service: %s", a.body)
	}
	fault = errors.New("no KVM here")
	if a := get("/readyz"); a.status != 503 || !strings.Contains(a.body, "backend: no KVM here") {
		t.Errorf("/readyz: %d %s", a.status, a.body)
	}
	if a := grpcHealth(""); !strings.Contains(a.body, "NOT_SERVING") {
		t.Errorf("health: %s", a.body)
	}
	if a := get("/healthz"); a.status != 200 {
		t.Errorf("/healthz: %d", a.status)
	}
}

func TestReflectionIsOffUnlessAskedFor(t *testing.T) {
	const path = "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo"
	for _, on := range []bool{false, true} {
		s := serve(t, func(c *Config) { c.Reflection = on })
		req, err := http.NewRequest(http.MethodPost, s.url+path, nil)
		if err != nil {
			t.Fatal(err)
		}
		if a := s.do(t, req); (a.status != 404) != on {
			t.Errorf("reflection %v: status %d", on, a.status)
		}
	}
}

func TestASlowBodyDoesNotHoldTheOthers(t *testing.T) {
	s := serve(t, nil)
	const slow = 200
	var conns []net.Conn
	defer func() {
		for _, c := range conns {
			c.Close()
		}
	}()
	for range slow {
		c, err := net.Dial("tcp", s.addr)
		if err != nil {
			t.Fatal(err)
		}
		conns = append(conns, c)
		fmt.Fprintf(c, "POST %sListVms HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n{", servicePrefix)
	}
	started := time.Now()
	for range 20 {
		s.must(t, "ListVms", "{}")
	}
	if took := time.Since(started); took > 10*time.Second {
		t.Errorf("20 calls beside %d slow ones took %s", slow, took)
	}
}

func TestSlowClientsAreCutOff(t *testing.T) {
	s := serve(t, func(c *Config) {
		c.timeouts = defaultTimeouts()
		c.timeouts.header, c.timeouts.body = 50*time.Millisecond, 50*time.Millisecond
	})
	for name, slow := range map[string]struct{ sent, told string }{
		"header": {"POST / HTTP/1.1\r\nHost: localhost\r\n", ""},
		"body": {"POST " + servicePrefix + "ListVms HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n" +
			"Content-Length: 100\r\nConnection: close\r\n\r\n{", "the body of the request did not come within 50ms"},
	} {
		c, err := net.Dial("tcp", s.addr)
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprint(c, slow.sent)
		_ = c.SetReadDeadline(time.Now().Add(5 * time.Second))
		if answer, err := io.ReadAll(c); err != nil || strings.Contains(string(answer), "200 OK") || !strings.Contains(string(answer), slow.told) {
			t.Errorf("a slow %s: %v, %q", name, err, answer)
		}
		c.Close()
	}
	if strings.Contains(s.log.String(), `"level":"ERROR"`) {
		t.Errorf("whoever runs metald is called for slow clients:\n%s", s.log.String())
	}
}

func TestACallMayOutlastTheTimeForItsBody(t *testing.T) {
	s := serve(t, func(c *Config) {
		c.timeouts = timeouts{header: 50 * time.Millisecond, body: 50 * time.Millisecond, write: 50 * time.Millisecond, idle: time.Minute}
	})
	s.create(t, "slow")
	s.vms.before = func(ctx context.Context) error {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(300 * time.Millisecond):
			return nil
		}
	}
	for name, client := range map[string]*http.Client{"HTTP/1.1": http.DefaultClient, "HTTP/2": h2cClient(t)} {
		for _, rpc := range []string{"BootVm", "PauseVm", "ResumeVm"} { // on one connection, each
			resp, err := client.Do(s.request(t, rpc, "application/json", strings.NewReader(`{"vm_id":"slow"}`)))
			if err != nil {
				t.Fatalf("%s over %s: %v", rpc, name, err)
			}
			if body, err := io.ReadAll(resp.Body); err != nil || resp.StatusCode != 200 {
				t.Errorf("%s over %s: %d %s %v", rpc, name, resp.StatusCode, body, err)
			}
			resp.Body.Close()
		}
		if _, err := s.vms.Shutdown(t.Context(), "slow", true, 0); err != nil {
			t.Fatal(err)
		}
	}
}

func TestConnectionsBeyondTheLimitWait(t *testing.T) {
	s := serve(t, func(c *Config) { c.MaxConnections = 2 })
	var held []net.Conn
	for range 2 {
		c, err := net.Dial("tcp", s.addr)
		if err != nil {
			t.Fatal(err)
		}
		held = append(held, c)
	}
	third, err := net.Dial("tcp", s.addr)
	if err != nil {
		t.Fatal(err)
	}
	defer third.Close()
	fmt.Fprintf(third, "GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
	_ = third.SetReadDeadline(time.Now().Add(100 * time.Millisecond))
	if n, err := third.Read(make([]byte, 1)); n != 0 || !isTimeout(err) {
		t.Errorf("a third connection was served beside two: %d, %v", n, err)
	}
	held[0].Close()
	_ = third.SetReadDeadline(time.Now().Add(10 * time.Second))
	line, err := bufio.NewReader(third).ReadString('\n')
	if err != nil || !strings.Contains(line, "200") {
		t.Errorf("after one left: %q, %v", line, err)
	}
	held[1].Close()
}

func isTimeout(err error) bool {
	var timeout net.Error
	return errors.As(err, &timeout) && timeout.Timeout()
}

func TestDrainLetsRunningCallsEnd(t *testing.T) {
	s := serve(t, nil)
	s.create(t, "slow")
	entered, release := make(chan struct{}), make(chan struct{})
	s.vms.before = func(context.Context) error { close(entered); <-release; return nil }
	answers := make(chan answer, 1)
	go func() { answers <- s.post(t, "BootVm", `{"vm_id":"slow"}`) }()
	<-entered
	stopped := make(chan error, 1)
	go func() { stopped <- s.stop() }()
	eventually(t, "it refuses connections", func() bool {
		c, err := net.Dial("tcp", s.addr)
		if err == nil {
			c.Close()
		}
		return err != nil
	})
	if len(s.readiness.faults()) == 0 {
		t.Error("it is ready while it stops")
	}
	close(release)
	if a := <-answers; a.status != 200 {
		t.Errorf("the call that ran: %d %s", a.status, a.body)
	}
	if err := <-stopped; err != nil {
		t.Errorf("Run: %v", err)
	}
	if info, err := s.vms.Get("slow"); err != nil || info.State != lifecycle.Running {
		t.Errorf("%v, %v", info.State, err)
	}
}

func TestDrainCancelsCallsThatOutlastIt(t *testing.T) {
	for name, protocol := range map[string]struct {
		client  *http.Client
		options []connect.ClientOption
	}{
		"Connect HTTP/1.1": {http.DefaultClient, nil},
		"Connect HTTP/2":   {h2cClient(t), nil},
		"gRPC":             {h2cClient(t), []connect.ClientOption{connect.WithGRPC()}},
	} {
		t.Run(name, func(t *testing.T) {
			s := serve(t, func(c *Config) { c.DrainTimeout = 50 * time.Millisecond })
			s.create(t, "stuck")
			entered, left := make(chan struct{}), make(chan struct{})
			s.vms.before = func(ctx context.Context) error {
				defer close(left)
				close(entered)
				<-ctx.Done()
				return ctx.Err()
			}
			answers := make(chan error, 1)
			client := vmprovisionerv1connect.NewVmServiceClient(protocol.client, s.url, protocol.options...)
			go func() {
				_, err := client.BootVm(context.Background(), connect.NewRequest(&pb.BootVmRequest{VmId: "stuck"}))
				answers <- err
			}()
			<-entered
			if err := s.stop(); err != nil {
				t.Errorf("Run: %v", err)
			}
			select {
			case <-left:
			default:
				t.Error("Run returned while a handler was running")
			}
			if err := <-answers; connect.CodeOf(err) != connect.CodeUnavailable || !strings.Contains(err.Error(), "metald is stopping") {
				t.Errorf("the caller, who did not give up, is told: %v", err)
			}
		})
	}
}
