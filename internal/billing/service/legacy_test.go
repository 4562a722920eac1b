package service_test

import (
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/types/known/timestamppb"

	pb "github.com/unkeyed/unkey/go/deploy/metald/gen/billing/v1"
)

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
