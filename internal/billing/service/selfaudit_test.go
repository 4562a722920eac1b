package service_test

import (
	"context"
	"io"
	"log/slog"
	"net/http"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect"
	_ "modernc.org/sqlite" // the ledger is changed behind billaged's back

	"database/sql"

	pb "github.com/unkeyed/unkey/go/deploy/metald/gen/billing/v1"
	"github.com/unkeyed/unkey/go/deploy/metald/gen/billing/v1/billingv1connect"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/billing/service"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/config"
)

// run starts billaged in this process, and returns its URL.
func run(t *testing.T, cfg config.Billaged) string {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	out, in := io.Pipe()
	ran := make(chan error, 1)
	go func() {
		ran <- service.Run(ctx, cfg, slog.New(slog.NewTextHandler(in, nil)))
		in.Close()
	}()
	t.Cleanup(func() {
		cancel()
		if err := <-ran; err != nil {
			t.Error(err)
		}
	})
	buf := make([]byte, 4096)
	n, err := out.Read(buf)
	if err != nil {
		t.Fatal(err)
	}
	go func() { _, _ = io.Copy(io.Discard, out) }()
	at := regexp.MustCompile(`address=(\S+)`).FindSubmatch(buf[:n])
	if at == nil {
		t.Fatalf("it says %s", buf[:n])
	}
	return "http://" + string(at[1])
}

func await(t *testing.T, url, line string) string {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		text := get(t, url+"/metrics")
		if regexp.MustCompile("(?m)^" + line + "$").MatchString(text) {
			return text
		}
		if time.Now().After(deadline) {
			t.Fatalf("the metrics never have %s:\n%s", line, text)
		}
	}
}

// TestTheLedgerAuditsItself has audits beside the work: they pass while batches, and totals ahead of them, come; and
// find a row that was changed.
func TestTheLedgerAuditsItself(t *testing.T) {
	ctx, dir := t.Context(), t.TempDir()
	url := run(t, config.Billaged{Address: "127.0.0.1", StateDir: dir, UnreachableAfter: time.Minute, StopTimeout: time.Second, AuditEvery: 20 * time.Millisecond, Token: config.NewSecret("t")})
	bearer := connect.WithInterceptors(connect.UnaryInterceptorFunc(func(next connect.UnaryFunc) connect.UnaryFunc {
		return func(ctx context.Context, req connect.AnyRequest) (connect.AnyResponse, error) {
			req.Header().Set("Authorization", "Bearer t")
			return next(ctx, req)
		}
	}))
	client := billingv1connect.NewBillingServiceClient(http.DefaultClient, url, bearer)
	if _, err := billingv1connect.NewBillingServiceClient(http.DefaultClient, url).SendHeartbeat(ctx, connect.NewRequest(&pb.SendHeartbeatRequest{InstanceId: "h"})); connect.CodeOf(err) != connect.CodeUnauthenticated {
		t.Errorf("without the token: %v", err)
	}
	b := &billaged{client: client, url: url}
	h := newHost(t, "v", 20)
	if _, err := client.NotifyVmStarted(ctx, connect.NewRequest(h.start)); err != nil {
		t.Fatal(err)
	}
	// More is announced than the end will say: it counts, and raw records have to say so.
	ahead := h.cpu
	totals := &pb.Totals{At: &pb.Moment{MonoNs: 1 + 999*tick, WallNs: hour*1e9 + 999*tick}, NextSeq: 999, CpuNs: &ahead, RunningNs: 999 * tick, GapTicks: 3}
	beat := &pb.SendHeartbeatRequest{InstanceId: "h", Totals: []*pb.IncarnationTotals{{Incarnation: h.start.GetIncarnation(), Totals: totals}}}
	if _, err := client.SendHeartbeat(ctx, connect.NewRequest(beat)); err != nil {
		t.Fatal(err)
	}
	text := await(t, url, `billaged_unbilled_ns [1-9]\d*`)
	if !strings.Contains(text, "billaged_oldest_unacked_seconds ") {
		t.Errorf("no age: %s", text)
	}
	h.run(t, func() *billaged { return b })
	for range 3 {
		passed := await(t, url, `billaged_audit_ok 1`)
		if strings.Contains(passed, `result="differed"} 1`) {
			t.Fatalf("an audit found a difference:\n%s", passed)
		}
	}
	await(t, url, `billaged_audit_records 23`)
	await(t, url, `billaged_audit_ok 1`)
	resp, err := client.GetUsage(ctx, connect.NewRequest(&pb.GetUsageRequest{VmId: "v"}))
	if err != nil || resp.Msg.GetWindows()[0].GetUsage().GetGapTicks() != 3 {
		t.Errorf("%v, %v", resp, err)
	}

	db, err := sql.Open("sqlite", "file:"+filepath.Join(dir, "ledger.db")+"?_pragma=busy_timeout(5000)")
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	if _, err := db.ExecContext(ctx, "UPDATE ledger SET cpu_ns = cpu_ns - 1"); err != nil {
		t.Fatal(err)
	}
	await(t, url, `billaged_audit_ok 0`)
	await(t, url, `billaged_audits_total\{result="differed"\} [1-9]\d*`)
}
