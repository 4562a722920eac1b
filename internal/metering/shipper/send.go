package shipper

import (
	"context"

	"connectrpc.com/connect"

	pb "github.com/unkeyed/unkey/go/deploy/metald/gen/billing/v1"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/metering/batch"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/metering/usage"
)

// answer is what came of a step.
type answer struct {
	epoch   uint64
	step    *step
	verdict verdict
	partly  bool       // values of it were set aside by the receiver
	chain   batch.Hash // after it
	err     error      // for people
}

// send makes the request of a step that follows the chain, and returns what came of it.
func (s *Shipper) send(ctx context.Context, l usage.Life, st *step, chain batch.Hash) answer {
	ctx, cancel := context.WithTimeout(ctx, s.cfg.Timeout)
	defer cancel()
	a := answer{epoch: l.Incarnation.Epoch, step: st, chain: chain}
	var err error
	switch st.kind {
	case toStart:
		_, err = s.client.NotifyVmStarted(ctx, connect.NewRequest(startToProto(l)))
	case toSend:
		return s.sendBatch(ctx, l, a)
	case toMiss:
		_, err = s.client.NotifyPossibleGap(ctx, connect.NewRequest(&pb.NotifyPossibleGapRequest{
			VmId: l.Incarnation.VM, LastSent: st.gap[0], ResumeTime: st.gap[1],
			Incarnation: incarnationToProto(l.Incarnation), FirstMissingSeq: st.first, LastMissingSeq: st.last,
		}))
	case toStop:
		_, err = s.client.NotifyVmStopped(ctx, connect.NewRequest(&pb.NotifyVmStoppedRequest{
			VmId: l.Incarnation.VM, StopTime: st.end.Final.At.Wall, Incarnation: incarnationToProto(l.Incarnation),
			FinalTotals: totalsToProto(st.end.Final), FinalSeq: st.last, Reason: shortened(st.end.Reason),
		}))
	}
	if err != nil {
		a.verdict, a.err = judge(err), err
	}
	return a
}

func (s *Shipper) sendBatch(ctx context.Context, l usage.Life, a answer) answer {
	req := batchToProto(l, a.step, a.chain)
	resp, err := s.client.SendMetricsBatch(ctx, connect.NewRequest(req))
	if err != nil {
		a.verdict, a.err = judge(err), err
		return a
	}
	switch status := resp.Msg.GetStatus(); status {
	case pb.BatchStatus_BATCH_STATUS_APPLIED, pb.BatchStatus_BATCH_STATUS_APPLIED_IN_PART, pb.BatchStatus_BATCH_STATUS_DUPLICATE:
		a.partly = status == pb.BatchStatus_BATCH_STATUS_APPLIED_IN_PART
		a.chain = batch.Hash(req.GetChain())
	case pb.BatchStatus_BATCH_STATUS_UNKNOWN_INCARNATION:
		a.verdict = unopened
	case pb.BatchStatus_BATCH_STATUS_CHAIN_BROKEN:
		a.verdict = broken
	default:
		a.verdict = astray
	}
	if a.verdict != accepted {
		a.err = connect.NewError(connect.CodeFailedPrecondition, &said{resp.Msg.GetMessage()})
	}
	return a
}

// said is what a receiver said of a batch that it did not take.
type said struct{ message string }

func (s *said) Error() string { return s.message }

func batchToProto(l usage.Life, st *step, chain batch.Hash) *pb.SendMetricsBatchRequest {
	req := &pb.SendMetricsBatchRequest{
		VmId: l.Incarnation.VM, CustomerId: l.Customer, Incarnation: incarnationToProto(l.Incarnation),
		FirstSeq: st.first, LastSeq: st.last, Encoding: pb.PayloadEncoding_PAYLOAD_ENCODING_COLUMNS_ZSTD, Payload: st.payload,
	}
	var totals usage.Totals
	if st.totals != nil {
		totals = *st.totals
		req.Totals = totalsToProto(totals)
	}
	next := batch.Chain(chain, l.Incarnation, st.first, st.last, st.payload, totals)
	req.Chain = next[:]
	return req
}

// shortened fits a reason into what the wire takes.
func shortened(reason string) string {
	const most = 256
	if len(reason) <= most {
		return reason
	}
	cut := most
	for cut > 0 && reason[cut]&0xc0 == 0x80 { // within a character
		cut--
	}
	return reason[:cut]
}
