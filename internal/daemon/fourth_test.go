package daemon

import (
	"bytes"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/unkeyed/unkey/go/deploy/metald/internal/backend"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/backend/backendtest/toy"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/backend/fake"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/backend/types"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/config"
)

// further is a metald whose list of backends has one line more.
type further struct {
	t      *testing.T
	list   []backend.Descriptor
	cfg    config.Config
	kernel string
}

func newFurther(t *testing.T) *further {
	t.Helper()
	host := fake.NewHost()
	f := &further{t: t, list: append(backend.All(),
		backend.Descriptor{Name: toy.Name, New: func(backend.Host) (types.Backend, error) { return toy.New(host), nil }},
	)}
	dir := t.TempDir()
	f.kernel = filepath.Join(dir, "vmlinux")
	if err := os.WriteFile(f.kernel, []byte("\x7fELF and so on"), 0o644); err != nil {
		t.Fatal(err)
	}
	var err error
	f.cfg, err = config.Load(flag.NewFlagSet("metald", flag.ContinueOnError), []string{
		"-backend", toy.Name, "-port", "0", "-state-dir", filepath.Join(t.TempDir(), "state"), "-assets-dir", dir,
	}, nil, f.choices())
	if err != nil {
		t.Fatal(err)
	}
	return f
}

func (f *further) choices() config.Choices {
	var names []string
	for _, d := range f.list {
		names = append(names, d.Name)
	}
	return config.Choices{Backends: names}
}

// log keeps what metald says.
type log struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (l *log) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

func (l *log) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

// run starts a metald and returns its address, and what ends it.
func (f *further) run() (url string, stop func()) {
	f.t.Helper()
	said := &log{}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- Run(ctx, f.cfg, f.list, NewLog(said, f.cfg)) }()
	stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			f.t.Errorf("metald ended with %v", err)
		}
	})
	f.t.Cleanup(stop)
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(30 * time.Second); ; <-tick.C {
		if m := regexp.MustCompile(`msg=serving address=(\S+)`).FindStringSubmatch(said.String()); m != nil {
			return "http://" + m[1] + "/vmprovisioner.v1.VmService/", stop
		}
		if time.Now().After(deadline) {
			f.t.Fatalf("metald does not serve: %s", said)
		}
	}
}

// call returns what the API answers: its status and its body.
func (f *further) call(url, method, body string) (int, string) {
	f.t.Helper()
	resp, err := http.Post(url+method, "application/json", strings.NewReader(body))
	if err != nil {
		f.t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		f.t.Fatal(err)
	}
	return resp.StatusCode, string(text)
}

func (f *further) must(url, method, body string) string {
	f.t.Helper()
	status, text := f.call(url, method, body)
	if status != http.StatusOK {
		f.t.Fatalf("%s: %d %s", method, status, text)
	}
	return text
}

func (f *further) request(cpu string) string {
	return fmt.Sprintf(`{"vm_id":"a","backend":"toy","config":{"cpu":{%s},"memory":{"size_bytes":134217728},"boot":{"kernel_path":%q},"storage":[]}}`, cpu, f.kernel)
}

// TestFurtherBackend shows that a backend is a folder and a line: the settings, -help, -check and the API know it.
func TestFurtherBackend(t *testing.T) {
	f := newFurther(t)
	var help, check bytes.Buffer
	config.WriteHelp(&help, f.choices())
	if offered := "auto " + strings.Join(f.choices().Backends, " "); !strings.Contains(help.String(), offered+"\n") {
		t.Errorf("-help does not offer it:\n%s", &help)
	}
	if err := Check(t.Context(), f.cfg, f.list, &check); err != nil || !strings.Contains(check.String(), "toy: usable\n") {
		t.Errorf("-check says %v:\n%s", err, &check)
	}
	url, stop := f.run()
	if status, text := f.call(url, "CreateVm", f.request(`"vcpu_count":1,"topology":{"sockets":1,"cores_per_socket":1,"threads_per_core":1}`)); status != http.StatusNotImplemented || !strings.Contains(text, "a toy has one socket") {
		t.Errorf("what it cannot do is answered with %d %s", status, text)
	}
	if status, text := f.call(url, "CreateVm", f.request(`"vcpu_count":3`)); status != http.StatusBadRequest || !strings.Contains(text, "vcpu_count") {
		t.Errorf("what is beyond its bounds is answered with %d %s", status, text)
	}
	f.must(url, "CreateVm", f.request(`"vcpu_count":2`))
	f.must(url, "BootVm", `{"vm_id":"a"}`)
	stop()
	url, _ = f.run()
	text := f.must(url, "GetVmInfo", `{"vm_id":"a"}`)
	var info struct {
		State       string            `json:"state"`
		BackendInfo map[string]string `json:"backendInfo"`
	}
	if err := json.Unmarshal([]byte(text), &info); err != nil || info.State != "VM_STATE_RUNNING" || !strings.Contains(text, `"toy"`) {
		t.Errorf("after a restart: %v, %s", err, text)
	}
	f.must(url, "DeleteVm", `{"vm_id":"a","force":true}`)
	http.DefaultClient.CloseIdleConnections()
}
