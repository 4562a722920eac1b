package api

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/unkeyed/unkey/go/deploy/metald/internal/backend/types"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// served is an API that runs on loopback for the time of a test.
type served struct {
	*API
	vms  *memVMs
	url  string
	addr string
	log  *syncBuffer
	stop func() error // ends it and returns what Run returned
}

// serve runs an API over a new memVMs; change may alter its config.
func serve(t testing.TB, change func(*Config)) *served {
	t.Helper()
	s := &served{vms: newMemVMs(), log: &syncBuffer{}}
	cfg := Config{
		VMs: s.vms, Log: slog.New(slog.NewJSONHandler(s.log, nil)), Backend: "fake",
		Capabilities: map[string]types.Capabilities{"fake": allCapabilities(), "spartan": fewCapabilities()},
	}
	if change != nil {
		change(&cfg)
	}
	var err error
	if s.API, err = New(cfg); err != nil {
		t.Fatal(err)
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s.addr, s.url = ln.Addr().String(), "http://"+ln.Addr().String()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx, ln) }()
	s.stop = sync.OnceValue(func() error {
		cancel()
		return <-done
	})
	t.Cleanup(func() {
		http.DefaultClient.CloseIdleConnections()
		if err := s.stop(); err != nil {
			t.Errorf("Run: %v", err)
		}
	})
	return s
}

// answer is what came back for a request.
type answer struct {
	status int
	header http.Header
	body   string

	Code    string `json:"code"`
	Message string `json:"message"`
	Details []struct {
		Type  string `json:"type"`
		Debug struct {
			Reason          string            `json:"reason"`
			Domain          string            `json:"domain"`
			Metadata        map[string]string `json:"metadata"`
			FieldViolations []struct {
				Field       string `json:"field"`
				Description string `json:"description"`
			} `json:"fieldViolations"`
		} `json:"debug"`
	} `json:"details"`
}

// fields are the paths in the details of an error.
func (a answer) fields() string {
	var out []string
	for _, d := range a.Details {
		for _, v := range d.Debug.FieldViolations {
			out = append(out, v.Field)
		}
	}
	return strings.Join(out, " ")
}

func (s *served) do(t testing.TB, req *http.Request) answer {
	t.Helper()
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Error(err)
		return answer{}
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Error(err)
	}
	a := answer{status: resp.StatusCode, header: resp.Header, body: string(body)}
	if resp.StatusCode != http.StatusOK && strings.HasPrefix(resp.Header.Get("Content-Type"), "application/json") {
		if err := json.Unmarshal(body, &a); err != nil {
			t.Errorf("error body %q: %v", body, err)
		}
	}
	return a
}

// post calls an RPC with a JSON body.
func (s *served) post(t testing.TB, rpc, body string) answer {
	t.Helper()
	return s.do(t, s.request(t, rpc, "application/json", strings.NewReader(body)))
}

// must calls an RPC that has to succeed and decodes its answer.
func (s *served) must(t testing.TB, rpc, body string) map[string]any {
	t.Helper()
	a := s.post(t, rpc, body)
	if a.status != http.StatusOK {
		t.Fatalf("%s %s: status %d: %s", rpc, body, a.status, a.body)
	}
	out := map[string]any{}
	if err := json.Unmarshal([]byte(a.body), &out); err != nil {
		t.Fatal(err)
	}
	return out
}

func (s *served) request(t testing.TB, rpc, contentType string, body io.Reader) *http.Request {
	t.Helper()
	req, err := http.NewRequest(http.MethodPost, s.url+servicePrefix+rpc, body)
	if err != nil {
		t.Fatal(err)
	}
	if contentType != "" {
		req.Header.Set("Content-Type", contentType)
	}
	return req
}

const quickStart = `{"config":{"cpu":{"vcpu_count":1},"memory":{"size_bytes":134217728},"boot":{"kernel_path":"/opt/vm-assets/vmlinux","kernel_args":"console=ttyS0 reboot=k panic=1 pci=off"},"storage":[{"path":"/opt/vm-assets/rootfs.ext4","readonly":false}]}}`

// create makes a VM with the config of the quick start.
func (s *served) create(t testing.TB, id string) {
	t.Helper()
	s.must(t, "CreateVm", strings.Replace(quickStart, "{", fmt.Sprintf(`{"vm_id":%q,`, id), 1))
}

// syncBuffer is a log that tests may read while it is written.
type syncBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (b *syncBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

func (b *syncBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}

// eventually waits for a condition, which has 10 s to come true.
func eventually(t testing.TB, what string, cond func() bool) {
	t.Helper()
	deadline := time.After(10 * time.Second)
	look := time.NewTicker(time.Millisecond)
	defer look.Stop()
	for !cond() {
		select {
		case <-look.C:
		case <-deadline:
			t.Fatalf("not within 10 s: %s", what)
		}
	}
}
