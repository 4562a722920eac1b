package service_test

import (
	"log/slog"
	"net/http"
	"strings"
	"testing"

	"connectrpc.com/connect"

	pb "github.com/unkeyed/unkey/go/deploy/metald/gen/billing/v1"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/billing/service"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/config"
)

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
	req, err := http.NewRequest(http.MethodGet, b.url+"/metrics", nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Host = "evil.example:80"
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	if resp.Body.Close(); resp.StatusCode != http.StatusForbidden {
		t.Errorf("a foreign name is answered %d", resp.StatusCode)
	}
	cfg := config.Billaged{Address: "127.0.0.1", StateDir: strings.TrimPrefix(b.cmd.Env[len(b.cmd.Env)-1], stateEnv+"=")}
	if err := service.Run(t.Context(), cfg, slog.Default()); err == nil || !strings.Contains(err.Error(), "another billaged") {
		t.Errorf("two in one directory: %v", err)
	}
}
