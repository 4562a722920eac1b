package shipper_test

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"connectrpc.com/connect"
	"go.uber.org/goleak"

	pb "github.com/unkeyed/unkey/go/deploy/metald/gen/billing/v1"
	"github.com/unkeyed/unkey/go/deploy/metald/gen/billing/v1/billingv1connect"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/billing/service"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/config"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/metering/usage"
)

// stateEnv is set in the process that plays billaged.
const stateEnv = "SHIPPER_TEST_BILLAGED_STATE"

func TestMain(m *testing.M) {
	dir := os.Getenv(stateEnv)
	if dir == "" {
		goleak.VerifyTestMain(m)
		return
	}
	log := slog.New(slog.NewTextHandler(os.Stderr, nil))
	if err := service.Run(context.Background(), settings(dir), log); err != nil {
		log.Error("billaged", "error", err)
		os.Exit(1)
	}
}

func settings(dir string) config.Billaged {
	return config.Billaged{Address: "127.0.0.1", StateDir: dir, UnreachableAfter: 2 * time.Minute, StopTimeout: time.Second}
}

// billaged is the real receiver, in a process of its own or in this one.
type billaged struct {
	addr string
	stop func() // in a process: as kill -9 ends it
}

var address = regexp.MustCompile(`address=(\S+)`)

// spawn starts billaged as a process.
func spawn(t testing.TB, dir string) *billaged {
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
	b := &billaged{}
	b.stop = sync.OnceFunc(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	t.Cleanup(b.stop)
	b.addr = announced(t, pipe)
	return b
}

// within starts billaged in this process.
func within(t testing.TB, dir string) *billaged {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	ran := make(chan error, 1)
	out, in := io.Pipe()
	go func() {
		err := service.Run(ctx, settings(dir), slog.New(slog.NewTextHandler(in, nil)))
		in.Close()
		ran <- err
	}()
	b := &billaged{}
	b.stop = sync.OnceFunc(func() {
		cancel()
		if err := <-ran; err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(b.stop)
	b.addr = announced(t, out)
	return b
}

// announced returns the address that billaged says, and reads on, as who writes a log must not wait.
func announced(t testing.TB, log io.Reader) string {
	lines := bufio.NewReader(log)
	said := ""
	for range 20 {
		line, err := lines.ReadString('\n')
		said += line
		if at := address.FindStringSubmatch(line); at != nil {
			go func() { _, _ = io.Copy(io.Discard, lines) }()
			return at[1]
		}
		if err != nil {
			break
		}
	}
	t.Fatalf("billaged does not serve; it said:\n%s", said)
	return ""
}

// faults are chances, in thousandths of all requests.
type faults struct{ drop, cut, twice, late, slow int }

// network is what lies between a shipper and billaged: an address that stays, and faults.
type network struct {
	url       string
	to        atomic.Pointer[string] // nil: nobody is there
	faults    atomic.Pointer[faults]
	delivered atomic.Int64
	seen      func(path string, body []byte) // of what arrives
	client    *http.Client
	lates     sync.WaitGroup
}

func newNetwork(t testing.TB) *network {
	n := &network{client: &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 32}}}
	n.faults.Store(&faults{})
	server := httptest.NewServer(n)
	n.url = server.URL
	t.Cleanup(func() {
		server.Close()
		n.lates.Wait()
		n.client.CloseIdleConnections()
	})
	return n
}

func (n *network) lead(b *billaged) {
	if b == nil {
		n.to.Store(nil)
		return
	}
	n.to.Store(&b.addr)
}

func (n *network) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	to := n.to.Load()
	if err != nil || to == nil {
		panic(http.ErrAbortHandler)
	}
	f := n.faults.Load()
	chance := rand.IntN(1000)
	hit := func(share int) bool { chance -= share; return chance < 0 }
	switch {
	case hit(f.drop):
		panic(http.ErrAbortHandler)
	case hit(f.late): // it arrives when others came after it
		header, path := r.Header.Clone(), r.URL.Path
		n.lates.Go(func() {
			time.Sleep(time.Duration(rand.IntN(50)) * time.Millisecond) // the fault
			if resp, err := n.forward(context.Background(), *to, path, header, body); err == nil {
				resp.Body.Close()
			}
		})
		panic(http.ErrAbortHandler)
	case hit(f.twice):
		if resp, err := n.forward(r.Context(), *to, r.URL.Path, r.Header, body); err == nil {
			resp.Body.Close()
		}
	case hit(f.slow):
		time.Sleep(time.Duration(rand.IntN(20)) * time.Millisecond) // the fault
	}
	resp, err := n.forward(r.Context(), *to, r.URL.Path, r.Header, body)
	if err != nil || hit(f.cut) {
		if err == nil {
			resp.Body.Close()
		}
		panic(http.ErrAbortHandler)
	}
	defer resp.Body.Close()
	for name, values := range resp.Header {
		w.Header()[name] = values
	}
	w.WriteHeader(resp.StatusCode)
	_, _ = io.Copy(w, resp.Body)
}

func (n *network) forward(ctx context.Context, to, path string, header http.Header, body []byte) (*http.Response, error) {
	n.delivered.Add(1)
	if n.seen != nil {
		n.seen(path, body)
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://"+to+path, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	req.Header = header.Clone()
	return n.client.Do(req)
}

func (n *network) api() billingv1connect.BillingServiceClient {
	return billingv1connect.NewBillingServiceClient(n.client, "http://"+*n.to.Load())
}

// freeAddress is an address on which nobody listens.
func freeAddress(t testing.TB) string {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// billed checks that every VM that ended is billed what it used, to the byte and the nanosecond, and nothing is open.
func billed(t testing.TB, n *network, ended []usage.End) {
	t.Helper()
	api := n.api()
	wrong := 0
	for _, e := range ended {
		resp, err := api.GetUsage(context.Background(), connect.NewRequest(&pb.GetUsageRequest{VmId: e.Life.Incarnation.VM}))
		if err != nil || len(resp.Msg.GetWindows()) != 1 {
			t.Fatalf("%s: %v, %v", e.Life.Incarnation.VM, resp, err)
		}
		if got, want := amounts(resp.Msg.GetWindows()[0].GetUsage()), truth(e.Final.Amount); got != want || resp.Msg.GetQuarantined() != 0 {
			if wrong++; wrong < 5 {
				t.Errorf("%s is billed\n%s and %d values set aside, and used\n%s", e.Life.Incarnation.VM, got, resp.Msg.GetQuarantined(), want)
			}
		}
	}
	if wrong > 0 {
		t.Errorf("%d of %d bills are wrong", wrong, len(ended))
	}
	sessions, err := api.GetActiveBillingSessions(context.Background(), connect.NewRequest(&pb.GetActiveBillingSessionsRequest{InstanceId: "host"}))
	if err != nil || len(sessions.Msg.GetSessions()) != 0 {
		t.Errorf("%d sessions are open, %v", len(sessions.Msg.GetSessions()), err)
	}
}

func amounts(u *pb.Usage) string {
	line := func(name string, v *pb.Uint128) string {
		if v == nil {
			return name + " unknown\n"
		}
		return fmt.Sprintf("%s %s\n", name, usage.U128{Hi: v.GetHi(), Lo: v.GetLo()})
	}
	var all strings.Builder
	for q, v := range []*pb.Uint128{
		u.GetCpuNs(), u.GetDiskReadBytes(), u.GetDiskWriteBytes(), u.GetNetworkRxBytes(), u.GetNetworkTxBytes(), u.GetMemoryResidentByteNs(), u.GetMemoryAllocatedByteNs(),
		u.GetRunningNs(), u.GetPausedNs(), u.GetOtherNs(), u.GetUnobservedNs(), {Lo: u.GetGapTicks()},
	} {
		all.WriteString(line(usage.Quantity(q).String(), v))
	}
	return all.String()
}

func truth(a usage.Amount) string {
	var all strings.Builder
	for q := range usage.Quantity(usage.Quantities) {
		if v, ok := a.Known(q); ok {
			fmt.Fprintf(&all, "%s %s\n", q, v)
		} else {
			fmt.Fprintf(&all, "%s unknown\n", q)
		}
	}
	return all.String()
}
