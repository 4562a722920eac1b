package api

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"testing"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/proto"

	pb "github.com/unkeyed/unkey/go/deploy/metald/gen/vmprovisioner/v1"
	"github.com/unkeyed/unkey/go/deploy/metald/gen/vmprovisioner/v1/vmprovisionerv1connect"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/backend/types"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/vm"
)

// BenchmarkGetVmInfo compares GetVmInfo, with everything that a call passes, with a bare connect handler that
// answers the same bytes.
func BenchmarkGetVmInfo(b *testing.B) { benchmarkGetVmInfo(b) }

// BenchmarkGetVmInfoJSON is the same over JSON.
func BenchmarkGetVmInfoJSON(b *testing.B) { benchmarkGetVmInfo(b, connect.WithProtoJSON()) }

func benchmarkGetVmInfo(b *testing.B, options ...connect.ClientOption) {
	s := serve(b, nil)
	s.create(b, "a")
	if _, err := s.vms.Boot(b.Context(), "a"); err != nil {
		b.Fatal(err)
	}
	cpu, memory := time.Second, int64(100<<20)
	s.vms.usage = types.Usage{
		At: time.Now(), CPUTime: &cpu, MemoryBytes: &memory,
		Disks: map[string]types.DiskUsage{"disk0": {ReadBytes: 1 << 20, ReadOps: 100}},
	}
	ours := vmprovisionerv1connect.NewVmServiceClient(http.DefaultClient, s.url, options...)
	get := func(c vmprovisionerv1connect.VmServiceClient) *pb.GetVmInfoResponse {
		resp, err := c.GetVmInfo(b.Context(), connect.NewRequest(&pb.GetVmInfoRequest{VmId: "a"}))
		if err != nil {
			b.Fatal(err)
		}
		return resp.Msg
	}
	bare := vmprovisionerv1connect.NewVmServiceClient(http.DefaultClient, echoServer(b, get(ours)), options...)
	pairs(b, 3000,
		func() { get(ours) },
		func() { get(bare) },
	)
}

// echoServer serves GetVmInfo with answer, by connect and net/http alone, and returns its URL.
func echoServer(b *testing.B, answer *pb.GetVmInfoResponse) string {
	b.Helper()
	echo := func(context.Context, *connect.Request[pb.GetVmInfoRequest]) (*connect.Response[pb.GetVmInfoResponse], error) {
		return connect.NewResponse(answer), nil
	}
	handler := connect.NewUnaryHandler(vmprovisionerv1connect.VmServiceGetVmInfoProcedure, echo, connect.WithCompressMinBytes(compressMinBytes))
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	server := &http.Server{Handler: handler}
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = server.Serve(ln)
	}()
	b.Cleanup(func() {
		_ = server.Close()
		<-done
	})
	return "http://" + ln.Addr().String()
}

// BenchmarkListPage compares what metald does for the second page of 100 out of 10,000 VMs, from the HTTP request to
// the HTTP response, with marshalling that page. The client's work and the network are not in it.
func BenchmarkListPage(b *testing.B) {
	s := serve(b, nil)
	spec := specFromProto(quickStartRequest(b).GetConfig())
	for i := range 10_000 {
		spec.Metadata = map[string]string{"tenant": "t-42", "workspace": fmt.Sprintf("ws-%d", i)}
		if _, err := s.vms.CreateOn(b.Context(), vm.CreateRequest{ID: types.VMID(fmt.Sprintf("vm-%d", i)), Spec: spec}); err != nil {
			b.Fatal(err)
		}
	}
	client := vmprovisionerv1connect.NewVmServiceClient(http.DefaultClient, s.url)
	list := func(token string) *pb.ListVmsResponse {
		resp, err := client.ListVms(b.Context(), connect.NewRequest(&pb.ListVmsRequest{PageToken: token}))
		if err != nil {
			b.Fatal(err)
		}
		return resp.Msg
	}
	second := list("").GetNextPageToken()
	page := list(second)
	if len(page.GetVms()) != 100 || page.GetTotalCount() != 10_000 {
		b.Fatalf("%d of %d", len(page.GetVms()), page.GetTotalCount())
	}
	body, err := proto.Marshal(&pb.ListVmsRequest{PageToken: second})
	if err != nil {
		b.Fatal(err)
	}
	pairs(b, 3000,
		func() {
			req := s.request(b, "ListVms", "application/proto", bytes.NewReader(body))
			resp := httptest.NewRecorder()
			if s.ServeHTTP(resp, req); resp.Code != http.StatusOK {
				b.Fatal(resp.Body)
			}
		},
		func() {
			if _, err := proto.Marshal(page); err != nil {
				b.Fatal(err)
			}
		},
	)
}

// pairs runs a subject and its floor turn by turn, so that a noisy machine disturbs both alike, and reports their
// 10th percentiles and the ratio of those. The first tenth does not count.
//
// It is not the median that is compared: a call of some 40 µs is mostly two wake-ups, and on two busy cores the medians
// of one and the same server differ by several percent, enough to make a subject look cheaper than its own floor.
// The 10th percentiles of the same server agree within half a percent. ratio-p50 is printed to show how noisy it was.
func pairs(b *testing.B, least int, subject, floor func()) {
	b.Helper()
	n := max(b.N, least)
	var took [2][]time.Duration
	for i := range n + n/10 {
		for _, side := range [2]int{i % 2, 1 - i%2} {
			started := time.Now()
			if side == 0 {
				subject()
			} else {
				floor()
			}
			if i >= n/10 {
				took[side] = append(took[side], time.Since(started))
			}
		}
	}
	slices.Sort(took[0])
	slices.Sort(took[1])
	s, f := float64(took[0][n/10]), float64(took[1][n/10])
	b.ReportMetric(0, "ns/op") // of a pair, which says nothing
	b.ReportMetric(s/1e3, "subject-us")
	b.ReportMetric(f/1e3, "floor-us")
	b.ReportMetric(s/f, "ratio")
	b.ReportMetric(float64(took[0][n/2])/float64(took[1][n/2]), "ratio-p50")
}
