// Package hack tests the scripts behind the Makefile.
package hack

import (
	"bytes"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/unkeyed/unkey/go/deploy/metald/internal/backend/stubvmm"
	"github.com/unkeyed/unkey/go/deploy/metald/test/harness"
)

func TestMain(m *testing.M) {
	code := m.Run()
	harness.Remove()
	os.Exit(code)
}

// TestRunUnderAnyUmask runs hack/run with the umask of Ubuntu's users, under which a plain mkdir makes directories that
// the group can write to and that metald refuses for its state.
func TestRunUnderAnyUmask(t *testing.T) {
	top, err := os.MkdirTemp("", "m")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(top) })
	if err := os.Mkdir(filepath.Join(top, "build"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(harness.Binary(t), filepath.Join(top, "build/metald")); err != nil {
		t.Fatal(err)
	}
	port := strconv.Itoa(harness.FreePort(t))
	run := exec.Command("bash", "-c", `umask 002; exec "$@"`, "bash", script(t, "run"), harness.StubAssets(t), "build/state")
	run.Dir = top
	run.Env = append(os.Environ(), "UNKEY_METALD_PORT="+port, "UNKEY_METALD_QEMU_ACCEL=tcg", "UNKEY_METALD_QEMU_BINARY="+stubvmm.BuildQEMU(t))
	var out bytes.Buffer
	run.Stdout, run.Stderr = &out, &out
	if err := run.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- run.Wait() }()
	ready := false
	harness.Eventually(t, 30*time.Second, "metald is ready, or has ended", func() bool {
		resp, err := http.Get("http://localhost:" + port + "/readyz")
		if err == nil {
			resp.Body.Close()
			ready = resp.StatusCode == http.StatusOK
		}
		return ready || len(ended) > 0
	})
	_ = run.Process.Signal(syscall.SIGTERM) // it has ended where it was never ready
	if err := <-ended; err != nil || !ready {
		t.Errorf("ready: %t, %v:\n%s", ready, err, out.String())
	}
}

// TestPackagesSaysHowToGetGo runs hack/packages on machines that have everything but a Go that will do.
func TestPackagesSaysHowToGetGo(t *testing.T) {
	for _, tc := range []struct {
		name  string
		tools map[string]string // what each prints, beside what every machine has
		dir   bool              // Go is unpacked where it belongs
		want  string
	}{
		{"none, Debian has a new one", map[string]string{"apt-cache": "golang-1.9-go - x\ngolang-1.24-go - x"}, false, "apt-get install -y golang-1.24-go && export PATH=/usr/lib/go-1.24/bin:$PATH"},
		{"none, Debian has an old one", map[string]string{"apt-cache": "golang-1.19-go - x", "curl": ""}, false, "curl -fsSL https://go.dev/dl/go1."},
		{"none, nor curl", map[string]string{"apt-get": ""}, false, "apt-get install -y curl && curl -fsSL https://go.dev/dl/go1."},
		{"too old", map[string]string{"go": "go1.19.8", "curl": ""}, false, "go1.19.8 is too old"},
		{"not on PATH", nil, true, "export PATH=GO/bin:$PATH"},
		{"new enough", map[string]string{"go": "go1.21.3"}, false, ""},
		{"not released yet", map[string]string{"go": "devel go1.99-0123abc"}, false, ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			out, err := packages(t, "build", tc.tools, tc.dir)
			if tc.want == "" {
				if err != nil {
					t.Errorf("%v: %s", err, out)
				}
				return
			}
			if err == nil || !strings.Contains(out, tc.want) || strings.Count(out, "\n") != 1 {
				t.Errorf("%v; want one line with %q, got:\n%s", err, tc.want, out)
			}
		})
	}
}

// TestPackagesWithoutApt is about a Debian from which apt was taken.
func TestPackagesWithoutApt(t *testing.T) {
	out, err := packages(t, "micro-kernel", map[string]string{"go": "go1.26.0"}, false)
	if err == nil || !strings.Contains(out, "there is no apt-get here; please install") && !strings.Contains(out, "please install what is missing") {
		t.Errorf("%v: %s", err, out)
	}
}

// packages runs the script with a PATH of little more than tools; GO in what it says is where Go's archives go.
func packages(t *testing.T, set string, tools map[string]string, unpacked bool) (string, error) {
	t.Helper()
	if _, err := os.Stat("/usr/sbin/go"); err == nil {
		t.Skip("/usr/sbin of this machine, where the script looks too, has a Go")
	}
	bin, goRoot := t.TempDir(), filepath.Join(t.TempDir(), "go")
	for _, name := range []string{"bash", "uname", "id", "awk", "sed", "sort", "tail", "dirname", "ldd", "git"} {
		path, err := exec.LookPath(name)
		if err != nil {
			t.Skipf("this machine has no %s", name)
		}
		if err := os.Symlink(path, filepath.Join(bin, name)); err != nil {
			t.Fatal(err)
		}
	}
	for name, says := range tools {
		executable(t, filepath.Join(bin, name), says)
	}
	if unpacked {
		if err := os.MkdirAll(filepath.Join(goRoot, "bin"), 0o755); err != nil {
			t.Fatal(err)
		}
		executable(t, filepath.Join(goRoot, "bin/go"), "go1.26.0")
	}
	cmd := exec.Command("bash", script(t, "packages"), set)
	cmd.Env = []string{"PATH=" + bin, "GO_ROOT=" + goRoot, "SSL_CERT_FILE=/dev/null"}
	out, err := cmd.CombinedOutput()
	return strings.ReplaceAll(string(out), goRoot, "GO"), err
}

func executable(t *testing.T, path, says string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(fmt.Sprintf("#!/bin/bash\nprintf '%%s\\n' '%s'\n", says)), 0o755); err != nil {
		t.Fatal(err)
	}
}

func script(t *testing.T, name string) string {
	t.Helper()
	path, err := filepath.Abs(filepath.Join("../../hack", name))
	if err != nil {
		t.Fatal(err)
	}
	return path
}
