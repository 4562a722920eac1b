package shipper

import (
	"context"
	"crypto/ed25519"
	"encoding/binary"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"connectrpc.com/connect"

	pb "github.com/unkeyed/unkey/go/deploy/metald/gen/billing/v1"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/metering/record"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/metering/usage"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/metering/wal"
)

// beat sends a heartbeat.
func (e *engine) beat(ctx context.Context) {
	e.beating = true
	e.beatAt = time.Now().Add(e.cfg.Heartbeat)
	e.calls.Go(func() { e.beats <- e.heartbeat(ctx, e.cfg.Accounts()) })
}

func (e *engine) beaten(err error) {
	e.beating = false
	if err != nil {
		e.failed(err)
		return
	}
	e.counts.Heartbeats++
}

// heartbeat says that the host lives, what its VMs used, and where the log's chain is. An error is for a receiver that
// is not there; what it refuses is logged.
func (e *engine) heartbeat(ctx context.Context, accounts []usage.Account) error {
	ctx, cancel := context.WithTimeout(ctx, e.cfg.Timeout)
	defer cancel()
	records, hash := e.cfg.Log.Head()
	req := &pb.SendHeartbeatRequest{InstanceId: e.cfg.InstanceID}
	if records > 0 {
		req.ChainHead = &pb.ChainHead{Records: records, Hash: hash[:]}
	}
	for i := range accounts {
		inc := accounts[i].Life.Incarnation
		req.ActiveVms = append(req.ActiveVms, inc.VM)
		req.Totals = append(req.Totals, &pb.IncarnationTotals{Incarnation: incarnationToProto(inc), Totals: totalsToProto(accounts[i].Meter.Totals)})
	}
	resp, err := e.client.SendHeartbeat(ctx, connect.NewRequest(req))
	if err != nil {
		if judge(err) == failed {
			return err
		}
		e.cfg.Logger.Error("the billing service refuses a heartbeat", "error", err)
		return nil
	}
	if records == 0 {
		return nil
	}
	if err := e.signer.check(resp.Msg.GetCounterSignature(), records, hash); err != nil {
		e.signer.faults.Add(1)
		e.cfg.Logger.Error("the head of the log of metering is not countersigned", "records", records, "error", err)
	}
	return nil
}

// signer checks countersignatures. Heartbeats are sent one at a time, so it needs no lock.
type signer struct {
	*Shipper
	kept   *kept
	key    ed25519.PublicKey // that was seen first
	faults atomic.Uint64
}

var errWithheld = errors.New("the billing service withholds its signature: the head contradicts one that it signed before, so the log was cut or edited, or it is of another host")

// check hands on a signature that is right.
func (s *signer) check(p *pb.CounterSignature, records uint64, hash wal.Hash) error {
	if p == nil {
		return errWithheld
	}
	if p.GetHead().GetRecords() != records || string(p.GetHead().GetHash()) != string(hash[:]) {
		return errors.New("the countersignature is of another head")
	}
	trusted := s.cfg.PublicKey
	if trusted == nil {
		trusted = s.key
	}
	key := ed25519.PublicKey(p.GetPublicKey())
	if len(key) != ed25519.PublicKeySize || len(trusted) > 0 && !key.Equal(trusted) {
		return fmt.Errorf("the countersignature has the key %x, and %x is trusted", []byte(key), []byte(trusted))
	}
	if !ed25519.Verify(key, signedBytes(s.cfg.InstanceID, records, hash, p.GetSignedAtNs()), p.GetSignature()) {
		return errors.New("the countersignature is not one")
	}
	if len(trusted) == 0 {
		if err := s.kept.setKey(key); err != nil {
			return fmt.Errorf("keep the billing service's key: %w", err)
		}
		s.key = key
	}
	s.cfg.Signed(record.Signature{Record: records, Hash: hash, SignedAt: p.GetSignedAtNs(), PublicKey: key, Signature: p.GetSignature()})
	return nil
}

// signedBytes is what a countersignature signs, as the proto file says.
func signedBytes(instance string, records uint64, hash wal.Hash, signedAt int64) []byte {
	b := append([]byte("billing.v1.ChainHead\x00"+instance), 0)
	b = binary.BigEndian.AppendUint64(b, records)
	b = append(b, hash[:]...)
	return binary.BigEndian.AppendUint64(b, uint64(signedAt))
}
