package service_test

import (
	"bufio"
	"context"
	"crypto/ed25519"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"os"
	"os/exec"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/types/known/timestamppb"

	pb "github.com/unkeyed/unkey/go/deploy/metald/gen/billing/v1"
	"github.com/unkeyed/unkey/go/deploy/metald/gen/billing/v1/billingv1connect"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/billing/receiver"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/billing/service"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/billing/store"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/config"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/metering/batch"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/metering/usage"
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

// host sends batches of one incarnation until all are acknowledged.
type host struct {
	start   *pb.NotifyVmStartedRequest
	batches []*pb.SendMetricsBatchRequest
	stop    *pb.NotifyVmStoppedRequest
	cpu     uint64
}

func newHost(t *testing.T, vm string, n int) *host {
	t.Helper()
	codec, err := batch.NewCodec()
	if err != nil {
		t.Fatal(err)
	}
	inc := &pb.Incarnation{HostId: "h", VmId: vm, Epoch: 1, BootId: "b", StartTicks: 2}
	zero := uint64(0)
	h := &host{start: &pb.NotifyVmStartedRequest{VmId: vm, CustomerId: "c", Incarnation: inc, Baseline: &pb.Baseline{
		At: &pb.Moment{MonoNs: 1, WallNs: hour * 1e9}, CpuNs: &zero, State: pb.VmState_VM_STATE_RUNNING, CpuMilli: 1000, TickNs: tick,
	}}}
	const ticksPerBatch = 50
	for i := range uint64(n) {
		var ticks batch.Ticks
		for seq := i * ticksPerBatch; seq < (i+1)*ticksPerBatch; seq++ {
			h.cpu += tick / 3
			at := usage.Time{Mono: 1 + int64(seq+1)*tick, Wall: hour*1e9 + int64(seq+1)*tick}
			ticks.Samples = append(ticks.Samples, usage.Sample{Seq: seq, At: at, State: usage.Running, Reading: usage.Reading{}.With(usage.CPU, h.cpu)})
		}
		h.batches = append(h.batches, &pb.SendMetricsBatchRequest{
			VmId: vm, CustomerId: "c", Incarnation: inc, FirstSeq: i * ticksPerBatch, LastSeq: (i+1)*ticksPerBatch - 1,
			Encoding: pb.PayloadEncoding_PAYLOAD_ENCODING_COLUMNS_ZSTD, Payload: codec.Encode(ticks),
		})
	}
	last := h.batches[n-1].GetLastSeq()
	final := &pb.Totals{At: &pb.Moment{MonoNs: 1 + int64(last+1)*tick, WallNs: hour*1e9 + int64(last+1)*tick}, NextSeq: last + 1, CpuNs: &h.cpu, RunningNs: (last + 1) * tick}
	h.stop = &pb.NotifyVmStoppedRequest{VmId: vm, Incarnation: inc, FinalTotals: final, FinalSeq: last, Reason: "guest-shutdown"}
	return h
}

// run sends everything, against a billaged that is replaced by another where it is killed.
func (h *host) run(t *testing.T, now func() *billaged) {
	ctx := t.Context()
	retry(t, func() error { _, err := now().client.NotifyVmStarted(ctx, connect.NewRequest(h.start)); return err })
	for _, b := range h.batches {
		retry(t, func() error {
			resp, err := now().client.SendMetricsBatch(ctx, connect.NewRequest(b))
			if err == nil && !resp.Msg.GetSuccess() {
				t.Fatalf("batch from %d: %s", b.GetFirstSeq(), resp.Msg.GetMessage())
			}
			return err
		})
	}
	retry(t, func() error { _, err := now().client.NotifyVmStopped(ctx, connect.NewRequest(h.stop)); return err })
}

func retry(t *testing.T, f func() error) {
	t.Helper()
	var err error
	for deadline := time.Now().Add(30 * time.Second); time.Now().Before(deadline); time.Sleep(time.Millisecond) {
		if err = f(); err == nil {
			return
		}
		if connect.IsWireError(err) { // billaged said no; all else is a broken connection
			break
		}
	}
	t.Fatalf("refused: %v", err)
}

// TestKilledAtRandomMoments kills billaged in the midst of calls. Whatever was acknowledged is kept, and nothing is
// counted twice. BILLAGED_KILLS sets how often.
func TestKilledAtRandomMoments(t *testing.T) {
	kills := 12
	if n, err := strconv.Atoi(os.Getenv("BILLAGED_KILLS")); err == nil {
		kills = n
	}
	dir := t.TempDir()
	b := start(t, dir)
	killed := 0
	var dying chan struct{}
	now := func() *billaged {
		if dying != nil {
			select {
			case <-dying:
				b, dying = start(t, dir), nil
			default:
			}
		}
		if dying == nil && killed < kills {
			killed++
			dying = make(chan struct{})
			go func(b *billaged, done chan struct{}, after time.Duration) {
				time.Sleep(after) // the random moment
				b.kill()
				close(done)
			}(b, dying, time.Duration(rand.IntN(30_000))*time.Microsecond)
		}
		return b
	}
	var hosts []*host
	for i := 0; i == 0 || killed < kills; i++ {
		h := newHost(t, fmt.Sprintf("vm%d", i), 20)
		h.run(t, now)
		hosts = append(hosts, h)
	}
	if dying != nil {
		<-dying
		b = start(t, dir)
	}
	for _, h := range hosts {
		checkBill(t, b, h)
	}
	before := exported(t, dir)
	for _, h := range hosts {
		h.run(t, func() *billaged { return b })
	}
	if after := exported(t, dir); after != before {
		t.Error("a replay of the whole history changed the ledger")
	}
	var said strings.Builder
	if err := service.Audit(t.Context(), dir, t.TempDir(), &said); err != nil {
		t.Errorf("audit: %v\n%s", err, &said)
	}
	sessions, err := b.client.GetActiveBillingSessions(t.Context(), connect.NewRequest(&pb.GetActiveBillingSessionsRequest{InstanceId: "h"}))
	if err != nil || len(sessions.Msg.GetSessions()) != 0 {
		t.Errorf("%d sessions are open, %v", len(sessions.Msg.GetSessions()), err)
	}
}

func checkBill(t *testing.T, b *billaged, h *host) {
	t.Helper()
	resp, err := b.client.GetUsage(t.Context(), connect.NewRequest(&pb.GetUsageRequest{VmId: h.start.GetVmId()}))
	if err != nil {
		t.Fatal(err)
	}
	used := resp.Msg.GetWindows()[0].GetUsage()
	if used.GetCpuNs().GetLo() != h.cpu || used.GetRunningNs().GetLo() != h.stop.GetFinalTotals().GetRunningNs() || used.GetGapTicks() != 0 {
		t.Errorf("%s is billed %v, and used %d ns", h.start.GetVmId(), used, h.cpu)
	}
	if used.DiskReadBytes != nil {
		t.Error("disk reads were never measured, and are not unknown")
	}
}

func exported(t *testing.T, dir string) string {
	t.Helper()
	var out, sum strings.Builder
	for _, format := range []string{"csv", "jsonl"} {
		if err := service.Export(t.Context(), dir, format, 0, 1<<40, &out, &sum); err != nil {
			t.Fatal(err)
		}
	}
	if !strings.HasPrefix(sum.String(), "sha256 ") || strings.Count(out.String(), "\n") < 3 {
		t.Errorf("the export is %s%s", &out, &sum)
	}
	return out.String() + sum.String()
}

func TestHeartbeats(t *testing.T) {
	ctx := t.Context()
	ledger, err := store.Open(ctx, t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer ledger.Close()
	clock := time.Unix(hour, 0)
	public, key, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	handler, err := receiver.New(receiver.Config{Store: ledger, Key: key, Unreachable: 2 * time.Minute, Log: slog.New(slog.NewTextHandler(io.Discard, nil)), Now: func() time.Time { return clock }})
	if err != nil {
		t.Fatal(err)
	}
	client := billingv1connect.NewBillingServiceClient(direct{handler}, "http://billaged")
	h := newHost(t, "v", 1)
	if _, err := client.NotifyVmStarted(ctx, connect.NewRequest(h.start)); err != nil {
		t.Fatal(err)
	}
	beat := func(records uint64, hash byte) *pb.CounterSignature {
		t.Helper()
		head := &pb.ChainHead{Records: records, Hash: append(make([]byte, 31), hash)}
		resp, err := client.SendHeartbeat(ctx, connect.NewRequest(&pb.SendHeartbeatRequest{InstanceId: "h", ChainHead: head}))
		if err != nil {
			t.Fatal(err)
		}
		return resp.Msg.GetCounterSignature()
	}
	first := beat(5, 1)
	head := store.Head{Records: first.GetHead().GetRecords(), Hash: first.GetHead().GetHash(), SignedAt: first.GetSignedAtNs()}
	if !ed25519.Verify(public, receiver.SignedBytes("h", head), first.GetSignature()) {
		t.Error("the countersignature is not one")
	}
	if beat(5, 2) != nil || beat(4, 1) != nil {
		t.Error("a head that contradicts an earlier one was signed")
	}
	if beat(5, 1) == nil || beat(6, 9) == nil {
		t.Error("an honest head was not signed")
	}
	state := func() pb.SessionState {
		resp, err := client.GetActiveBillingSessions(ctx, connect.NewRequest(&pb.GetActiveBillingSessionsRequest{InstanceId: "h"}))
		if err != nil || len(resp.Msg.GetSessions()) != 1 {
			t.Fatalf("sessions %v, %v", resp, err)
		}
		return resp.Msg.GetSessions()[0].GetState()
	}
	if state() != pb.SessionState_SESSION_STATE_ACTIVE {
		t.Errorf("it is %s after a heartbeat", state())
	}
	clock = clock.Add(time.Hour)
	if state() != pb.SessionState_SESSION_STATE_UNREACHABLE {
		t.Errorf("it is %s after an hour of silence: unreachable is not stopped", state())
	}
	if _, err := client.SendMetricsBatch(ctx, connect.NewRequest(h.batches[0])); err != nil {
		t.Errorf("a host that was unreachable is refused: %v", err)
	}
}

func TestRefusals(t *testing.T) {
	b := start(t, t.TempDir())
	h := newHost(t, "v", 1)
	other := newHost(t, "v", 1).batches[0]
	other.CustomerId = "other"
	h.run(t, func() *billaged { return b })
	for name, tt := range map[string]struct {
		batch *pb.SendMetricsBatchRequest
		want  connect.Code
	}{
		"another customer":  {other, connect.CodePermissionDenied},
		"no customer":       {&pb.SendMetricsBatchRequest{VmId: "v"}, connect.CodeInvalidArgument},
		"backwards":         {&pb.SendMetricsBatchRequest{VmId: "v", CustomerId: "c", FirstSeq: 2, LastSeq: 1}, connect.CodeInvalidArgument},
		"no payload":        {&pb.SendMetricsBatchRequest{VmId: "v", CustomerId: "c", Incarnation: h.start.GetIncarnation()}, connect.CodeInvalidArgument},
		"a wrong payload":   {&pb.SendMetricsBatchRequest{VmId: "v", CustomerId: "c", Incarnation: h.start.GetIncarnation(), Encoding: 1, Payload: []byte("x")}, connect.CodeInvalidArgument},
		"negative counters": {&pb.SendMetricsBatchRequest{VmId: "w", CustomerId: "c", Metrics: []*pb.VMMetrics{{CpuTimeNanos: -1}}}, connect.CodeInvalidArgument},
	} {
		if _, err := b.client.SendMetricsBatch(t.Context(), connect.NewRequest(tt.batch)); connect.CodeOf(err) != tt.want {
			t.Errorf("%s: %v, want %s", name, err, tt.want)
		}
	}
	if _, err := b.client.GetUsage(t.Context(), connect.NewRequest(&pb.GetUsageRequest{})); connect.CodeOf(err) != connect.CodeInvalidArgument {
		t.Errorf("usage of nobody: %v", err)
	}
	cfg := config.Billaged{Address: "127.0.0.1", StateDir: strings.TrimPrefix(b.cmd.Env[len(b.cmd.Env)-1], stateEnv+"=")}
	if err := service.Run(t.Context(), cfg, slog.Default()); err == nil || !strings.Contains(err.Error(), "another billaged") {
		t.Errorf("two in one directory: %v", err)
	}
}

// TestAClientOfBefore sends nothing but the fields that were published first.
func TestAClientOfBefore(t *testing.T) {
	ctx := t.Context()
	b := start(t, t.TempDir())
	minute := func(n int64) *pb.SendMetricsBatchRequest {
		m := &pb.SendMetricsBatchRequest{VmId: "old", CustomerId: "c"}
		for i := n * 600; i <= (n+1)*600; i++ {
			at := time.Unix(hour, i*tick)
			m.Metrics = append(m.Metrics, &pb.VMMetrics{Timestamp: timestamppb.New(at), CpuTimeNanos: 1000e9 + i*tick/2, MemoryUsageBytes: 100})
		}
		return m
	}
	for _, n := range []int64{1, 0, 1} { // the second first, and one twice
		if _, err := b.client.NotifyVmStarted(ctx, connect.NewRequest(&pb.NotifyVmStartedRequest{VmId: "old", CustomerId: "c", StartTime: hour * 1e9})); err != nil {
			t.Fatal(err)
		}
		if resp, err := b.client.SendMetricsBatch(ctx, connect.NewRequest(minute(n))); err != nil || !resp.Msg.GetSuccess() {
			t.Fatal(resp, err)
		}
	}
	if _, err := b.client.NotifyVmStopped(ctx, connect.NewRequest(&pb.NotifyVmStoppedRequest{VmId: "old", StopTime: hour * 1e9})); err != nil {
		t.Fatal(err)
	}
	if _, err := b.client.NotifyPossibleGap(ctx, connect.NewRequest(&pb.NotifyPossibleGapRequest{VmId: "old", LastSent: 1, ResumeTime: 2})); err != nil {
		t.Fatal(err)
	}
	day := &timestamppb.Timestamp{Seconds: hour + 24*3600}
	for what, q := range map[string]*pb.GetUsageRequest{
		"so far":   {TenantId: "c"},
		"by range": {VmId: "old", TenantId: "c", From: &timestamppb.Timestamp{Seconds: hour}, To: day},
		"by hour":  {VmId: "old", From: &timestamppb.Timestamp{Seconds: hour}, To: day, StepSeconds: 3600},
	} {
		resp, err := b.client.GetUsage(ctx, connect.NewRequest(q))
		if err != nil || len(resp.Msg.GetWindows()) != 1 {
			t.Fatalf("%s: %v, %v", what, resp, err)
		}
		used := resp.Msg.GetWindows()[0].GetUsage()
		if used.GetCpuNs().GetLo() != 60e9 || used.GetMemoryResidentByteNs().GetLo() != 100*120e9 || !used.GetByTimestamps() || used.MemoryAllocatedByteNs != nil {
			t.Errorf("%s: %v", what, used)
		}
	}
	if resp, err := b.client.GetUsage(ctx, connect.NewRequest(&pb.GetUsageRequest{VmId: "old", TenantId: "other"})); err != nil || len(resp.Msg.GetWindows()) != 0 {
		t.Errorf("another tenant sees %v, %v", resp, err)
	}
	text := get(t, b.url+"/metrics")
	for _, want := range []string{`billaged_batches_total{status="BATCH_STATUS_APPLIED"} 3`, `billaged_incarnations{phase="open"} 1`, "billaged_quarantined 0", "billaged_unplaced_cpu_ns 0"} {
		if !strings.Contains(text, want+"\n") {
			t.Errorf("the metrics lack %s:\n%s", want, text)
		}
	}
	if get(t, b.url+"/readyz") != "ready\n" {
		t.Error("not ready")
	}
}

func get(t *testing.T, url string) string {
	t.Helper()
	resp, err := http.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// direct is a client without a network.
type direct struct{ handler http.Handler }

func (d direct) Do(r *http.Request) (*http.Response, error) {
	w := &recorder{header: http.Header{}, code: http.StatusOK}
	d.handler.ServeHTTP(w, r)
	return &http.Response{StatusCode: w.code, Header: w.header, Body: io.NopCloser(strings.NewReader(w.body.String())), Request: r, ProtoMajor: 1, ProtoMinor: 1}, nil
}

type recorder struct {
	header http.Header
	code   int
	body   strings.Builder
}

func (r *recorder) Header() http.Header         { return r.header }
func (r *recorder) Write(b []byte) (int, error) { return r.body.Write(b) }
func (r *recorder) WriteHeader(code int)        { r.code = code }
