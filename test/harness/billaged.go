package harness

import (
	"fmt"
	"net/http"
	"os/exec"
	"path/filepath"
	"strconv"
	"syscall"
	"testing"
	"time"

	"github.com/unkeyed/unkey/go/deploy/metald/gen/billing/v1/billingv1connect"
)

// Billaged is a billaged at one port, which may be ended and started again.
type Billaged struct {
	URL      string
	StateDir string
	Client   billingv1connect.BillingServiceClient

	binary string
	port   int
	cmd    *exec.Cmd
	log    *syncBuffer
}

// NewBillaged builds and starts one. It is ended when the test ends.
func NewBillaged(tb testing.TB) *Billaged {
	tb.Helper()
	b := &Billaged{StateDir: tb.TempDir(), binary: filepath.Join(tb.TempDir(), "billaged"), port: FreePort(tb), log: &syncBuffer{}}
	if out, err := exec.Command("go", "build", "-o", b.binary, "github.com/unkeyed/unkey/go/deploy/metald/cmd/billaged").CombinedOutput(); err != nil {
		tb.Fatalf("build billaged: %v\n%s", err, out)
	}
	b.URL = fmt.Sprintf("http://127.0.0.1:%d", b.port)
	b.Client = billingv1connect.NewBillingServiceClient(&http.Client{Timeout: 10 * time.Second}, b.URL)
	b.Start(tb)
	tb.Cleanup(func() {
		b.Kill()
		if tb.Failed() {
			tb.Logf("billaged said:\n%s", b.log)
		}
	})
	return b
}

// Start starts it and waits until it is ready.
func (b *Billaged) Start(tb testing.TB) {
	tb.Helper()
	b.cmd = exec.Command(b.binary)
	b.cmd.Env = []string{"UNKEY_BILLAGED_PORT=" + strconv.Itoa(b.port), "UNKEY_BILLAGED_STATE_DIR=" + b.StateDir}
	b.cmd.Stdout, b.cmd.Stderr = b.log, b.log
	if err := b.cmd.Start(); err != nil {
		tb.Fatal(err)
	}
	Eventually(tb, 30*time.Second, "billaged is ready", func() bool {
		resp, err := http.Get(b.URL + "/readyz")
		if err != nil {
			return false
		}
		resp.Body.Close()
		return resp.StatusCode == http.StatusOK
	})
}

// Kill ends it with SIGKILL and waits. Repeatable.
func (b *Billaged) Kill() {
	if b.cmd == nil {
		return
	}
	_ = b.cmd.Process.Signal(syscall.SIGKILL)
	_ = b.cmd.Wait()
	b.cmd = nil
}
