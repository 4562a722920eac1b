package service_test

import (
	"bufio"
	"context"
	"log/slog"
	"net/http"
	"os"
	"os/exec"
	"regexp"
	"sync"
	"testing"
	"time"

	"github.com/unkeyed/unkey/go/deploy/metald/gen/billing/v1/billingv1connect"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/billing/service"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/config"
)

const (
	stateEnv = "BILLAGED_TEST_STATE" // set in the process that plays billaged
	tick     = 100_000_000
	hour     = 1_800_000_000
)

func TestMain(m *testing.M) {
	dir := os.Getenv(stateEnv)
	if dir == "" {
		os.Exit(m.Run())
	}
	log := slog.New(slog.NewTextHandler(os.Stderr, nil))
	cfg := config.Billaged{Address: "127.0.0.1", StateDir: dir, UnreachableAfter: 2 * time.Minute, StopTimeout: time.Second}
	if err := service.Run(context.Background(), cfg, log); err != nil {
		log.Error("billaged", "error", err)
		os.Exit(1)
	}
}

// billaged is a running one.
type billaged struct {
	cmd    *exec.Cmd
	client billingv1connect.BillingServiceClient
	url    string
	kill   func() // as a power cut ends a process
}

func start(t *testing.T, dir string) *billaged {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), stateEnv+"="+dir)
	pipe, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	b := &billaged{cmd: cmd}
	b.kill = sync.OnceFunc(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	t.Cleanup(b.kill)
	lines := bufio.NewReader(pipe)
	said := ""
	for range 20 {
		line, err := lines.ReadString('\n')
		said += line
		if at := regexp.MustCompile(`address=(\S+)`).FindStringSubmatch(line); at != nil {
			b.url = "http://" + at[1]
			b.client = billingv1connect.NewBillingServiceClient(&http.Client{Timeout: 10 * time.Second}, b.url)
			return b
		}
		if err != nil {
			break
		}
	}
	t.Fatalf("billaged does not serve; it said:\n%s", said)
	return nil
}
