package service_test

import (
	"testing"
	"time"

	"connectrpc.com/connect"

	pb "github.com/unkeyed/unkey/go/deploy/metald/gen/billing/v1"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/metering/batch"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/metering/usage"
)

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
