package service_test

import (
	"math/rand/v2"
	"testing"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/types/known/timestamppb"

	pb "github.com/unkeyed/unkey/go/deploy/metald/gen/billing/v1"
)

// TestDifferencesAreNoSums has a client of before send what Firecracker's metrics say: what was used since they were
// written last, read again and again in between. No sum can be made of it, so none is billed.
func TestDifferencesAreNoSums(t *testing.T) {
	ctx := t.Context()
	for name, flush := range map[string]time.Duration{"each tick": 100 * time.Millisecond, "each minute": time.Minute} {
		t.Run(name, func(t *testing.T) {
			b := start(t, t.TempDir())
			random := rand.New(rand.NewPCG(1, 2))
			refused := false
			value, written := int64(0), time.Duration(-1)
			for minute := range 20 {
				m := &pb.SendMetricsBatchRequest{VmId: "fc", CustomerId: "c"}
				for i := range 600 {
					now := time.Duration(minute)*time.Minute + time.Duration(i)*100*time.Millisecond
					if at := now.Truncate(flush); at != written {
						written, value = at, int64(flush)/2+random.Int64N(int64(flush)/4)
					}
					m.Metrics = append(m.Metrics, &pb.VMMetrics{Timestamp: timestamppb.New(time.Unix(hour, int64(written))), CpuTimeNanos: value, MemoryUsageBytes: 100, DiskReadBytes: value / 1000})
				}
				if _, err := b.client.SendMetricsBatch(ctx, connect.NewRequest(m)); err != nil {
					if connect.CodeOf(err) != connect.CodeInvalidArgument {
						t.Fatal(err)
					}
					refused = true
				}
			}
			resp, err := b.client.GetUsage(ctx, connect.NewRequest(&pb.GetUsageRequest{VmId: "fc"}))
			if err != nil || !refused || resp.Msg.GetQuarantined() == 0 {
				t.Fatalf("refused %t, %v, %v", refused, resp, err)
			}
			for _, w := range resp.Msg.GetWindows() {
				if u := w.GetUsage(); u.CpuNs != nil || u.DiskReadBytes != nil || u.GetRunningNs().GetLo() != 0 {
					t.Errorf("differences are billed: %v", u)
				}
			}
			ranged, err := b.client.GetUsage(ctx, connect.NewRequest(&pb.GetUsageRequest{VmId: "fc", From: &timestamppb.Timestamp{Seconds: hour}, To: &timestamppb.Timestamp{Seconds: hour + 3600}}))
			if err != nil || len(ranged.Msg.GetWindows()) != 0 {
				t.Errorf("differences are in the ledger: %v, %v", ranged, err)
			}
		})
	}
}
