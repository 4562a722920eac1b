package shipper_test

import (
	"context"
	"crypto/ed25519"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/proto"

	pb "github.com/unkeyed/unkey/go/deploy/metald/gen/billing/v1"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/metering/record"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/metering/shipper"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/metering/usage"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/metering/wal"
)

// TestReceiverOfAnOlderBackup puts the receiver back to what it was some minutes ago.
func TestReceiverOfAnOlderBackup(t *testing.T) {
	for name, tt := range map[string]struct {
		segment int
		whole   bool // the log has everything that is needed
	}{"the log has it all": {4 << 20, true}, "the log has a part": {32 << 10, false}} {
		t.Run(name, func(t *testing.T) {
			w, n, dir := newWorld(t, wal.Options{SegmentBytes: tt.segment, ReserveBytes: 64 << 10}), newNetwork(t), t.TempDir()
			b := within(t, dir)
			n.lead(b)
			s, _ := ship(t, w, n, func(c *shipper.Config) { c.BatchTicks = 50 })
			w.begin(5)
			w.ticks(500)
			batches := func(few uint64) func(shipper.Status) bool {
				return func(st shipper.Status) bool { return st.Batches >= few }
			}
			w.durable()
			until(t, s, time.Minute, "some is shipped", batches(45))
			n.lead(nil)
			b.stop()
			old := filepath.Join(t.TempDir(), "old")
			if err := os.CopyFS(old, os.DirFS(dir)); err != nil {
				t.Fatal(err)
			}
			b = within(t, dir)
			n.lead(b)
			w.begin(2)
			w.ticks(1000)
			w.end(7) // of which the backup knows nothing
			w.ticks(1000)
			w.end(2)
			w.durable()
			until(t, s, time.Minute, "more is shipped", func(st shipper.Status) bool { return st.Batches > 240 && st.Lives == 5 })
			n.lead(nil)
			b.stop()
			b = within(t, old)
			n.lead(b)
			w.ticks(500)
			w.endAll()
			shipped(t, w, s, time.Minute)
			if tt.whole {
				billed(t, n, w.ended)
				if st := s.Status(); st.GapTicks != 0 {
					t.Errorf("ticks are told as lost that the log has: %+v", st)
				}
				return
			}
			gaps := 0
			for _, e := range w.ended {
				resp, err := n.api().GetUsage(context.Background(), connect.NewRequest(&pb.GetUsageRequest{VmId: e.Life.Incarnation.VM}))
				if err != nil {
					t.Fatal(err)
				}
				if len(resp.Msg.GetWindows()) == 0 {
					t.Errorf("%s is lost", e.Life.Incarnation.VM)
					continue
				}
				u := resp.Msg.GetWindows()[0].GetUsage()
				if u.GetCpuNs().GetLo() != e.Final.Of[usage.CPU].Lo || u.GetNetworkTxBytes().GetLo() != e.Final.Of[usage.NetSent].Lo {
					t.Errorf("%s is billed %s, and used %s", e.Life.Incarnation.VM, amounts(u), truth(e.Final.Amount))
				}
				if u.GetGapTicks() > 0 {
					gaps++
				}
			}
			sessions, err := n.api().GetActiveBillingSessions(context.Background(), connect.NewRequest(&pb.GetActiveBillingSessionsRequest{InstanceId: "host"}))
			if err != nil || len(sessions.Msg.GetSessions()) != 0 {
				t.Errorf("%d sessions are open, %v", len(sessions.Msg.GetSessions()), err)
			}
			if st := s.Status(); gaps == 0 || st.GapTicks == 0 || st.Quarantined != 0 {
				t.Errorf("nothing is told as lost: %d gaps, %+v", gaps, st)
			}
		})
	}
}

// meddler changes requests and answers on their way.
type meddler struct {
	http.Handler
	change atomic.Pointer[func(w http.ResponseWriter, path string, body []byte) (changed []byte, answered bool)]
}

func (m *meddler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		panic(http.ErrAbortHandler)
	}
	if change := m.change.Load(); change != nil {
		var answered bool
		if body, answered = (*change)(w, r.URL.Path, body); answered {
			return
		}
	}
	r.Body, r.ContentLength = io.NopCloser(strings.NewReader(string(body))), int64(len(body))
	m.Handler.ServeHTTP(w, r)
}

// meddle puts a meddler before a network.
func meddle(t *testing.T, n *network) *meddler {
	m := &meddler{Handler: n}
	server := httptest.NewServer(m)
	t.Cleanup(server.Close)
	n.url = server.URL
	return m
}

const batchPath = "/billing.v1.BillingService/SendMetricsBatch"

func refuse(w http.ResponseWriter, code, message string, status int) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_, _ = io.WriteString(w, `{"code":"`+code+`","message":"`+message+`"}`)
}

// TestARefusedBatchBlocksNobody has one batch refused for good: it is kept, its ticks are told as lost, and its VM is
// billed what it used all the same.
func TestARefusedBatchBlocksNobody(t *testing.T) {
	w, n, dir := newWorld(t, wal.Options{}), newNetwork(t), t.TempDir()
	n.lead(within(t, dir))
	m := meddle(t, n)
	change := func(w http.ResponseWriter, path string, body []byte) ([]byte, bool) {
		var b pb.SendMetricsBatchRequest
		if path == batchPath && proto.Unmarshal(body, &b) == nil && b.GetVmId() == "vm3" && b.GetFirstSeq() <= 120 && 120 <= b.GetLastSeq() {
			refuse(w, "invalid_argument", "no", http.StatusBadRequest)
			return nil, true
		}
		return body, false
	}
	m.change.Store(&change)
	s, _ := ship(t, w, n, func(c *shipper.Config) { c.BatchTicks = 50 })
	w.begin(5)
	w.ticks(400)
	for _, epoch := range []uint64{1, 2, 4, 5} {
		w.end(epoch)
	}
	others := slices.Clone(w.ended)
	w.end(3)
	shipped(t, w, s, time.Minute)
	billed(t, n, others)
	if st := s.Status(); st.Quarantined != 1 || st.GapTicks != 50 || st.Parked != 0 {
		t.Errorf("status %+v", st)
	}
	resp, err := n.api().GetUsage(context.Background(), connect.NewRequest(&pb.GetUsageRequest{VmId: "vm3"}))
	if err != nil {
		t.Fatal(err)
	}
	final := w.ended[4].Final
	if u := resp.Msg.GetWindows()[0].GetUsage(); u.GetCpuNs().GetLo() != final.Of[usage.CPU].Lo || u.GetDiskReadBytes().GetLo() != final.Of[usage.DiskRead].Lo || u.GetGapTicks() != 50 {
		t.Errorf("billed %s, and used %s", amounts(u), truth(final.Amount))
	}
}

// TestARefusedVMRests has everything of a VM refused for a while. The log keeps it until the receiver takes it.
func TestARefusedVMRests(t *testing.T) {
	w, n, dir := newWorld(t, wal.Options{}), newNetwork(t), t.TempDir()
	n.lead(within(t, dir))
	m := meddle(t, n)
	change := func(w http.ResponseWriter, path string, body []byte) ([]byte, bool) {
		var b pb.NotifyVmStartedRequest
		if strings.HasSuffix(path, "NotifyVmStarted") && proto.Unmarshal(body, &b) == nil && b.GetVmId() == "vm3" {
			refuse(w, "permission_denied", "bound to another customer", http.StatusForbidden)
			return nil, true
		}
		return body, false
	}
	m.change.Store(&change)
	s, _ := ship(t, w, n, func(c *shipper.Config) { c.BatchTicks, c.Parked = 50, 300*time.Millisecond })
	w.begin(5)
	w.ticks(400)
	for _, epoch := range []uint64{1, 2, 4, 5} {
		w.end(epoch)
	}
	w.durable()
	until(t, s, time.Minute, "the others are shipped", func(st shipper.Status) bool { return st.Lives == 1 && st.Parked == 1 })
	billedOnly := slices.Clone(w.ended)
	if st := s.Status(); st.Acked > 10 {
		t.Errorf("the log was told to forget what nobody has: %+v", st)
	}
	w.end(3)
	m.change.Store(nil)
	shipped(t, w, s, time.Minute)
	billed(t, n, append(billedOnly, w.ended[4]))
}

// TestAChangedBatchIsNoticed changes batches on their way: the receiver keeps the evidence, and the next attempt is
// billed.
func TestAChangedBatchIsNoticed(t *testing.T) {
	w, n, dir := newWorld(t, wal.Options{}), newNetwork(t), t.TempDir()
	n.lead(within(t, dir))
	m := meddle(t, n)
	var changed atomic.Int64
	change := func(w http.ResponseWriter, path string, body []byte) ([]byte, bool) {
		var b pb.SendMetricsBatchRequest
		if path == batchPath && proto.Unmarshal(body, &b) == nil && b.GetTotals().GetCpuNs() > 0 && changed.Add(1) == 5 {
			*b.Totals.CpuNs--
			body, _ = proto.Marshal(&b)
		}
		return body, false
	}
	m.change.Store(&change)
	s, _ := ship(t, w, n, func(c *shipper.Config) { c.BatchTicks = 50 })
	w.begin(5)
	w.ticks(400)
	w.endAll()
	shipped(t, w, s, time.Minute)
	if st := s.Status(); st.ChainBreaks != 1 || st.Quarantined != 0 {
		t.Errorf("status %+v", st)
	}
	set := uint64(0)
	for _, e := range w.ended {
		resp, err := n.api().GetUsage(context.Background(), connect.NewRequest(&pb.GetUsageRequest{VmId: e.Life.Incarnation.VM}))
		if err != nil || amounts(resp.Msg.GetWindows()[0].GetUsage()) != truth(e.Final.Amount) {
			t.Errorf("%v, %v", resp, err)
		}
		set += resp.Msg.GetQuarantined()
	}
	if set != 1 {
		t.Errorf("%d pieces of evidence", set)
	}
}

// TestDamageOfTheLogIsTold cuts records out of the log before they are shipped.
func TestDamageOfTheLogIsTold(t *testing.T) {
	opt := wal.Options{SegmentBytes: 64 << 10, ReserveBytes: 64 << 10}
	w, n, dir := newWorld(t, opt), newNetwork(t), t.TempDir()
	n.lead(within(t, dir))
	w.begin(5)
	w.ticks(3000)
	w.durable()
	segments, err := filepath.Glob(filepath.Join(w.dir, "*.wal"))
	if err != nil || len(segments) < 5 {
		names, _ := os.ReadDir(w.dir)
		t.Fatal(segments, err, names)
	}
	if err := os.Remove(segments[2]); err != nil {
		t.Fatal(err)
	}
	w.ticks(100)
	w.endAll()
	s, _ := ship(t, w, n, func(c *shipper.Config) { c.BatchTicks = 50 })
	shipped(t, w, s, time.Minute)
	st := s.Status()
	if st.GapTicks == 0 || st.GapTicks%5 != 0 || st.Quarantined != 0 {
		t.Errorf("status %+v", st)
	}
	for _, e := range w.ended {
		resp, err := n.api().GetUsage(context.Background(), connect.NewRequest(&pb.GetUsageRequest{VmId: e.Life.Incarnation.VM}))
		if err != nil {
			t.Fatal(err)
		}
		u := resp.Msg.GetWindows()[0].GetUsage()
		if u.GetCpuNs().GetLo() != e.Final.Of[usage.CPU].Lo || u.GetGapTicks() != st.GapTicks/5 || u.GetDiskReadBytes().GetLo() != e.Final.Of[usage.DiskRead].Lo {
			t.Errorf("%s is billed %s, and used %s; %d ticks were lost", e.Life.Incarnation.VM, amounts(u), truth(e.Final.Amount), st.GapTicks/5)
		}
	}
}

// TestCountersignatures hands on what is signed by the key that was seen first, and nothing else.
func TestCountersignatures(t *testing.T) {
	w, n, dir := newWorld(t, wal.Options{}), newNetwork(t), t.TempDir()
	b := within(t, dir)
	n.lead(b)
	var mu sync.Mutex
	var signed []record.Signature
	config := func(c *shipper.Config) {
		c.Heartbeat = 5 * time.Millisecond
		c.Signed = func(s record.Signature) { mu.Lock(); defer mu.Unlock(); signed = append(signed, s) }
	}
	w.begin(1)
	w.ticks(10)
	w.durable()
	s, stop := ship(t, w, n, config)
	until(t, s, time.Minute, "heartbeats", func(st shipper.Status) bool { return st.Heartbeats > 3 })
	mu.Lock()
	first := signed[0]
	mu.Unlock()
	if records, hash := w.log.Head(); first.Record != records || first.Hash != hash || len(first.PublicKey) != ed25519.PublicKeySize {
		t.Errorf("signed %+v", first)
	}
	if st := s.Status(); st.SignatureFaults != 0 {
		t.Errorf("faults: %+v", st)
	}
	stop()
	mu.Lock()
	had := len(signed)
	mu.Unlock()
	n.lead(nil)
	b.stop()
	b = within(t, t.TempDir()) // another, with another key
	n.lead(b)
	s, _ = ship(t, w, n, config)
	until(t, s, time.Minute, "faults", func(st shipper.Status) bool { return st.SignatureFaults > 2 })
	mu.Lock()
	defer mu.Unlock()
	if len(signed) != had {
		t.Error("a signature of another key was handed on")
	}
}

// TestTheReceiverAsksForSilence obeys Retry-After.
func TestTheReceiverAsksForSilence(t *testing.T) {
	var mu sync.Mutex
	var calls []time.Time
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") != "Bearer secret" {
			t.Errorf("authorization %q", r.Header.Get("Authorization"))
		}
		mu.Lock()
		defer mu.Unlock()
		calls = append(calls, time.Now())
		w.Header().Set("Retry-After", "1")
		w.WriteHeader(http.StatusServiceUnavailable)
	}))
	defer server.Close()
	w := newWorld(t, wal.Options{})
	s, stop := ship(t, w, &network{url: server.URL}, func(c *shipper.Config) { c.Token = "secret" })
	until(t, s, time.Minute, "three attempts", func(st shipper.Status) bool { return st.Retries >= 3 })
	stop()
	mu.Lock()
	defer mu.Unlock()
	for i := 1; i < len(calls); i++ {
		if d := calls[i].Sub(calls[i-1]); d < 950*time.Millisecond {
			t.Errorf("call %d came after %s", i, d)
		}
	}
}
