package service_test

import (
	"crypto/ed25519"
	"io"
	"log/slog"
	"net/http"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect"

	pb "github.com/unkeyed/unkey/go/deploy/metald/gen/billing/v1"
	"github.com/unkeyed/unkey/go/deploy/metald/gen/billing/v1/billingv1connect"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/billing/receiver"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/billing/store"
)

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
	client := billingv1connect.NewBillingServiceClient(direct{handler}, "http://localhost")
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
