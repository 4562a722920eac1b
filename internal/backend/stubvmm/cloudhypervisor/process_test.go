package cloudhypervisor_test

import (
	"bytes"
	"context"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/unkeyed/unkey/go/deploy/metald/internal/backend/stubvmm"
)

const patience = 20 * time.Second

// process is one that runs in a directory of its own, with a kernel and a disk in it.
type process struct {
	cmd  *exec.Cmd
	dir  string
	http *http.Client
	ends chan error
}

func start(t testing.TB, exe string, args ...string) *process {
	t.Helper()
	dir, err := os.MkdirTemp("", "m")
	must(t, err)
	t.Cleanup(func() { os.RemoveAll(dir) })
	must(t, os.WriteFile(filepath.Join(dir, "kernel"), stubvmm.KernelPVH(), 0o600))
	must(t, os.WriteFile(filepath.Join(dir, "disk"), make([]byte, 1<<20), 0o600))
	p := &process{dir: dir, ends: make(chan error, 1)}
	out, err := os.Create(filepath.Join(dir, "out"))
	must(t, err)
	defer out.Close()
	p.cmd = exec.Command(exe, append([]string{"--api-socket", "path=api", "--event-monitor", "path=events"}, args...)...)
	p.cmd.Dir, p.cmd.Stdout, p.cmd.Stderr = dir, out, out
	must(t, p.cmd.Start())
	go func() { p.ends <- p.cmd.Wait() }()
	t.Cleanup(func() { _ = p.cmd.Process.Kill() })
	p.http = &http.Client{Timeout: patience, Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", filepath.Join(dir, "api"))
		},
	}}
	p.until(t, "the API", func() bool {
		resp, err := p.http.Get("http://x/api/v1/vmm.ping")
		if err != nil {
			return false
		}
		resp.Body.Close()
		return resp.StatusCode == 200
	})
	return p
}

func (p *process) until(t testing.TB, what string, holds func() bool) {
	t.Helper()
	for end := time.Now().Add(patience); !holds(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("no %s after %s\n%s", what, patience, p.text("out"))
		}
	}
}

func (p *process) text(name string) string {
	b, _ := os.ReadFile(filepath.Join(p.dir, name))
	return string(b)
}

// ask sends "METHOD path body" and returns "status body".
func (p *process) ask(t testing.TB, line string) string {
	t.Helper()
	parts := append(strings.SplitN(line, " ", 3), "", "")
	req, err := http.NewRequest(parts[0], "http://x/api/v1"+parts[1], bytes.NewReader([]byte(parts[2])))
	must(t, err)
	resp, err := p.http.Do(req)
	must(t, err)
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	must(t, err)
	return strings.TrimSpace(strconv.Itoa(resp.StatusCode) + " " + string(body))
}

func (p *process) wants(t testing.TB, pairs ...string) {
	t.Helper()
	for i := 0; i < len(pairs); i += 2 {
		if got := p.ask(t, pairs[i]); got != pairs[i+1] {
			t.Errorf("%s\n got %s\nwant %s", pairs[i], got, pairs[i+1])
		}
	}
}

func (p *process) code(t testing.TB) int {
	t.Helper()
	select {
	case <-p.ends:
		return p.cmd.ProcessState.ExitCode()
	case <-time.After(patience):
		t.Fatalf("it goes on after %s", patience)
		return 0
	}
}
