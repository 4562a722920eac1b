package service_test

import (
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect"

	pb "github.com/unkeyed/unkey/go/deploy/metald/gen/billing/v1"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/billing/service"
)

// TestKilledAtRandomMoments kills billaged in the midst of calls. Whatever was acknowledged is kept, and nothing is
// counted twice. BILLAGED_KILLS sets how often.
func TestKilledAtRandomMoments(t *testing.T) {
	kills := 12
	if n, err := strconv.Atoi(os.Getenv("BILLAGED_KILLS")); err == nil {
		kills = n
	}
	dir := t.TempDir()
	b := start(t, dir)
	killed := 0
	var dying chan struct{}
	now := func() *billaged {
		if dying != nil {
			select {
			case <-dying:
				b, dying = start(t, dir), nil
			default:
			}
		}
		if dying == nil && killed < kills {
			killed++
			dying = make(chan struct{})
			go func(b *billaged, done chan struct{}, after time.Duration) {
				time.Sleep(after) // the random moment
				b.kill()
				close(done)
			}(b, dying, time.Duration(rand.IntN(30_000))*time.Microsecond)
		}
		return b
	}
	var hosts []*host
	for i := 0; i == 0 || killed < kills; i++ {
		h := newHost(t, fmt.Sprintf("vm%d", i), 20)
		h.run(t, now)
		hosts = append(hosts, h)
	}
	if dying != nil {
		<-dying
		b = start(t, dir)
	}
	for _, h := range hosts {
		checkBill(t, b, h)
	}
	before := exported(t, dir)
	for _, h := range hosts {
		h.run(t, func() *billaged { return b })
	}
	if after := exported(t, dir); after != before {
		t.Error("a replay of the whole history changed the ledger")
	}
	var said strings.Builder
	if err := service.Audit(t.Context(), dir, t.TempDir(), &said); err != nil {
		t.Errorf("audit: %v\n%s", err, &said)
	}
	sessions, err := b.client.GetActiveBillingSessions(t.Context(), connect.NewRequest(&pb.GetActiveBillingSessionsRequest{InstanceId: "h"}))
	if err != nil || len(sessions.Msg.GetSessions()) != 0 {
		t.Errorf("%d sessions are open, %v", len(sessions.Msg.GetSessions()), err)
	}
}

func checkBill(t *testing.T, b *billaged, h *host) {
	t.Helper()
	resp, err := b.client.GetUsage(t.Context(), connect.NewRequest(&pb.GetUsageRequest{VmId: h.start.GetVmId()}))
	if err != nil {
		t.Fatal(err)
	}
	used := resp.Msg.GetWindows()[0].GetUsage()
	if used.GetCpuNs().GetLo() != h.cpu || used.GetRunningNs().GetLo() != h.stop.GetFinalTotals().GetRunningNs() || used.GetGapTicks() != 0 {
		t.Errorf("%s is billed %v, and used %d ns", h.start.GetVmId(), used, h.cpu)
	}
	if used.DiskReadBytes != nil {
		t.Error("disk reads were never measured, and are not unknown")
	}
}

func exported(t *testing.T, dir string) string {
	t.Helper()
	var out, sum strings.Builder
	for _, format := range []string{"csv", "jsonl"} {
		if err := service.Export(t.Context(), dir, format, 0, 1<<40, &out, &sum); err != nil {
			t.Fatal(err)
		}
	}
	if !strings.HasPrefix(sum.String(), "sha256 ") || strings.Count(out.String(), "\n") < 3 {
		t.Errorf("the export is %s%s", &out, &sum)
	}
	return out.String() + sum.String()
}
