// Package metering tests what metald bills, with real guests and real kernels' counters.
package metering

import (
	"context"
	"fmt"
	"math/big"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/types/known/timestamppb"

	billing "github.com/unkeyed/unkey/go/deploy/metald/gen/billing/v1"
	pb "github.com/unkeyed/unkey/go/deploy/metald/gen/vmprovisioner/v1"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/guest"
	"github.com/unkeyed/unkey/go/deploy/metald/test/harness"
)

func TestMain(m *testing.M) {
	code := m.Run()
	harness.Remove()
	os.Exit(code)
}

const (
	written    = 5<<20 + 12288 // bytes that the guest writes to its second disk; whole pages
	diskSize   = 16 << 20
	memory     = 128 << 20
	burn       = 4 * time.Second
	pause      = 1500 * time.Millisecond
	guestWait  = 4 * time.Minute
	sample     = 100 * time.Millisecond
	hostCPUs   = 2 // that one VMM of these tests keeps busy at most: a vCPU, and what QEMU does beside it
	lateEnough = 50 * time.Millisecond
)

// TestTheBillIsWhatTheHostCounted has a real guest burn CPU time, write a known number of bytes, be paused, and power
// off, and holds the bill against the host's own counters.
func TestTheBillIsWhatTheHostCounted(t *testing.T) {
	if testing.Short() {
		t.Skip("boots guests; not with -short")
	}
	for _, v := range harness.RealVMMs() {
		t.Run(v.Name, func(t *testing.T) { truth(t, v) })
	}
}

func truth(t *testing.T, v harness.VMM) {
	site := harness.NewSite(t, v)
	d := harness.Start(t, site.Options)
	ctx, cancel := context.WithTimeout(t.Context(), 2*guestWait)
	defer cancel()
	disk := filepath.Join(d.StateDir, "volumes", "data.img")
	must(t, os.WriteFile(disk, make([]byte, diskSize), 0o644))
	args := strings.Join([]string{
		harness.QuickStartArgs, os.Getenv("METALD_TEST_KERNEL_ARGS"),
		fmt.Sprintf("%s=%s %s=%d %s=/dev/vdb %s=%s", guest.ArgBurn, burn, guest.ArgWrite, written, guest.ArgWriteTo, guest.ArgExit, v.Ends()),
	}, " ")
	_, err := d.Client.CreateVm(ctx, connect.NewRequest(&pb.CreateVmRequest{VmId: "truth", TenantId: "acme", Config: &pb.VmConfig{
		Cpu:    &pb.CpuConfig{VcpuCount: 1},
		Memory: &pb.MemoryConfig{SizeBytes: memory},
		Boot:   &pb.BootConfig{KernelPath: site.Kernels[v.Name], KernelArgs: args},
		Storage: []*pb.StorageDevice{
			{Id: "root", Path: site.RootDisks[v.Name], ReadOnly: true, IsRootDevice: true}, {Id: "data", Path: disk},
		},
	}}))
	must(t, err)
	host := watch(t, pidOf(t, d, "truth"))

	began := time.Now()
	_, err = d.Client.BootVm(ctx, connect.NewRequest(&pb.BootVmRequest{VmId: "truth"}))
	must(t, err)
	running := newBounds(began, time.Now())
	follow := host.everySecond(t)
	d.AwaitConsole(t, "truth", guest.Marker, 1, guestWait)

	paused := func() *bounds {
		asked := time.Now()
		_, err := d.Client.PauseVm(ctx, connect.NewRequest(&pb.PauseVmRequest{VmId: "truth"}))
		must(t, err)
		return newBounds(asked, time.Now())
	}()
	waitFor(ctx, t, pause)
	asked := time.Now()
	_, err = d.Client.ResumeVm(ctx, connect.NewRequest(&pb.ResumeVmRequest{VmId: "truth"}))
	must(t, err)
	pausedFor := paused.until(asked, time.Now())

	harness.Eventually(t, guestWait, "the guest ends", func() bool {
		info, err := d.Client.GetVmInfo(ctx, connect.NewRequest(&pb.GetVmInfoRequest{VmId: "truth"}))
		must(t, err)
		return info.Msg.State == pb.VmState_VM_STATE_SHUTDOWN
	})
	ended := time.Now()
	seconds := follow()
	lived := running.until(ended.Add(-time.Second), ended)

	total := usageOf(ctx, t, d, &billing.GetUsageRequest{VmId: "truth"})
	if len(total) != 1 {
		t.Fatalf("%d windows, want one", len(total))
	}
	u := total[0].GetUsage()
	t.Logf("the bill: %v", u)
	host.wantCPU(t, u)
	if got := big128(u.GetDiskWriteBytes()); got.Cmp(big.NewInt(written)) != 0 {
		t.Errorf("billed %s bytes written, the guest wrote %d", got, written)
	}
	for _, m := range u.GetIncomplete() {
		t.Errorf("%s was not measured all the time", m)
	}
	run, stood := big128(u.GetRunningNs()), big128(u.GetPausedNs())
	pausedFor.want(t, "paused", stood)
	if most := big.NewInt(int64(lived.most)); new(big.Int).Add(run, stood).Cmp(most) > 0 {
		t.Errorf("billed %s ns running and %s paused of a life of %s", run, stood, lived.most)
	}
	held := new(big.Int).Mul(new(big.Int).Add(run, stood), big.NewInt(memory))
	if got := big128(u.GetMemoryAllocatedByteNs()); got.Cmp(held) != 0 {
		t.Errorf("billed %s byte·ns of memory, %d bytes were set aside for %s + %s ns", got, memory, run, stood)
	}
	if u.GetGapTicks() > 0 || big128(u.GetUnobservedNs()).Sign() > 0 {
		t.Logf("the machine was too busy: %d ticks were missed, %s ns unobserved", u.GetGapTicks(), big128(u.GetUnobservedNs()))
	}
	perSecond(ctx, t, d, seconds, total[0])
	sameByTenant(ctx, t, d, u)
	auditPasses(t, d)
}

// perSecond holds lines of a second each against what the host's CPU clock said at their ends.
func perSecond(ctx context.Context, t *testing.T, d *harness.Daemon, seconds []reading, total *billing.UsageWindow) {
	t.Helper()
	if len(seconds) < 3 {
		t.Fatalf("the host was read %d times", len(seconds))
	}
	from, to := seconds[0].at.Add(-time.Minute).Truncate(time.Second), seconds[len(seconds)-1].at.Add(time.Minute).Truncate(time.Second)
	lines := usageOf(ctx, t, d, &billing.GetUsageRequest{VmId: "truth", From: timestamppb.New(from), To: timestamppb.New(to), StepSeconds: 1})
	sum := new(big.Int)
	upTo := map[int64]*big.Int{} // CPU by the second at which it was used up
	for _, w := range lines {
		sum.Add(sum, big128(w.GetUsage().GetCpuNs()))
		upTo[w.GetTo().AsTime().Unix()] = new(big.Int).Set(sum)
	}
	if all := big128(total.GetUsage().GetCpuNs()); sum.Cmp(all) != 0 {
		t.Errorf("the seconds sum up to %s ns, the total is %s", sum, all)
	}
	checked := 0
	for _, s := range seconds {
		billed, ok := upTo[s.at.Round(time.Second).Unix()]
		if !ok {
			continue
		}
		checked++
		off := time.Duration(new(big.Int).Sub(billed, big.NewInt(int64(s.cpu))).Int64()).Abs()
		// The reading came a little after the second's end, and a tick lies up to a sample away.
		if most := hostCPUs * (sample + lateEnough + s.at.Sub(s.at.Round(time.Second)).Abs()); off > most {
			t.Errorf("up to %s the bill has %s ns, the host counted %d: %s apart, more than %s", s.at, billed, s.cpu, off, most)
		}
	}
	if checked < 3 {
		t.Errorf("only %d seconds could be compared", checked)
	}
	t.Logf("%d seconds compared", checked)
}

// sameByTenant asks for the tenant's bill, and for that of another.
func sameByTenant(ctx context.Context, t *testing.T, d *harness.Daemon, want *billing.Usage) {
	t.Helper()
	of := usageOf(ctx, t, d, &billing.GetUsageRequest{TenantId: "acme"})
	if len(of) != 1 || big128(of[0].GetUsage().GetCpuNs()).Cmp(big128(want.GetCpuNs())) != 0 {
		t.Errorf("the tenant's bill is %v", of)
	}
	if of := usageOf(ctx, t, d, &billing.GetUsageRequest{TenantId: "other"}); len(of) != 0 {
		t.Errorf("another tenant's bill is %v", of)
	}
}

func usageOf(ctx context.Context, t *testing.T, d *harness.Daemon, req *billing.GetUsageRequest) []*billing.UsageWindow {
	t.Helper()
	reply, err := d.Client.GetUsage(ctx, connect.NewRequest(req))
	must(t, err)
	if q := reply.Msg.GetQuarantined(); q != 0 {
		t.Errorf("%d values were set aside", q)
	}
	return reply.Msg.GetWindows()
}

func pidOf(t *testing.T, d *harness.Daemon, id string) int {
	t.Helper()
	info, err := d.Client.GetVmInfo(t.Context(), connect.NewRequest(&pb.GetVmInfoRequest{VmId: id}))
	must(t, err)
	pid, err := strconv.Atoi(info.Msg.BackendInfo["pid"])
	must(t, err)
	return pid
}

func big128(u *billing.Uint128) *big.Int {
	n := new(big.Int).SetUint64(u.GetHi())
	return n.Lsh(n, 64).Or(n, new(big.Int).SetUint64(u.GetLo()))
}

// bounds are the earliest and the latest moment at which something can have happened, and then of how long it took.
type bounds struct {
	earliest, latest time.Time
	least, most      time.Duration
}

func newBounds(earliest, latest time.Time) *bounds {
	return &bounds{earliest: earliest, latest: latest}
}

func (b *bounds) until(earliest, latest time.Time) *bounds {
	b.least, b.most = earliest.Sub(b.latest), latest.Sub(b.earliest)
	return b
}

func (b *bounds) want(t *testing.T, what string, ns *big.Int) {
	t.Helper()
	if ns.Cmp(big.NewInt(int64(b.least))) < 0 || ns.Cmp(big.NewInt(int64(b.most))) > 0 {
		t.Errorf("billed %s ns %s, it was between %s and %s", ns, what, b.least, b.most)
	}
}

func waitFor(ctx context.Context, t *testing.T, d time.Duration) {
	t.Helper()
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
		t.Fatal(ctx.Err())
	}
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// auditPasses verifies the log, and makes the ledger anew of it to compare them: while metald runs, and when it does not.
func auditPasses(t *testing.T, d *harness.Daemon) {
	t.Helper()
	d.Metald(t, "usage", "audit")
	d.Stop(t)
	d.Metald(t, "usage", "audit")
	d.Metald(t, "wal", "verify", filepath.Join(d.StateDir, "usage.wal"))
}
