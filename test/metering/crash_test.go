package metering

import (
	"context"
	"fmt"
	"math/big"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"testing"
	"time"

	"connectrpc.com/connect"
	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/proto"

	billing "github.com/unkeyed/unkey/go/deploy/metald/gen/billing/v1"
	pb "github.com/unkeyed/unkey/go/deploy/metald/gen/vmprovisioner/v1"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/guest"
	"github.com/unkeyed/unkey/go/deploy/metald/test/harness"
)

// TestKilledMetaldBillsWhatWasUsed kills metald with SIGKILL at random moments while VMs use CPU time and write, are
// rebooted, made and deleted, and while some of their VMMs are killed with nobody watching. In the end the bill is what
// the kernel counted, at metald and at billaged, and every tick was received or is a gap. METALD_TEST_SOAK=1 kills it 500
// times.
func TestKilledMetaldBillsWhatWasUsed(t *testing.T) {
	if testing.Short() {
		t.Skip("short")
	}
	kills := 12
	if os.Getenv("METALD_TEST_SOAK") == "1" {
		kills = 500
	}
	seed := uint64(time.Now().UnixNano())
	if s := os.Getenv("METALD_TEST_SEED"); s != "" {
		seed, _ = strconv.ParseUint(s, 10, 64)
	}
	t.Logf("METALD_TEST_SEED=%d", seed)
	w := newWorld(t, rand.New(rand.NewPCG(seed, 1)))
	for range kills {
		w.round()
	}
	w.d = harness.Start(t, w.options)
	w.d.DeleteAll(t)
	t.Logf("%d calls were answered well; refused: %v", w.done, w.errors)
	w.wantBillIsTruth()
	w.wantReceived()
	if w.done < 5*kills {
		t.Errorf("only %d calls were answered well before %d kills: %v", w.done, kills, w.errors)
	}
	auditPasses(t, w.d)
}

// world is a metald with a billaged, and VMs.
type world struct {
	t       *testing.T
	rand    *rand.Rand
	vmm     harness.VMM
	site    harness.Site
	options harness.Options
	d       *harness.Daemon
	b       *harness.Billaged
	vms     []string
	made    int
	starts  int64  // of VMMs, at most
	parent  string // the cgroup of all VMMs
	done    int    // calls that were answered well
	errors  map[string]int
	before  time.Duration // CPU time that it had counted when there was none
}

const (
	// beforeGroup is the CPU time of a process until it is in its cgroup: it execs a start gate, which joins.
	beforeGroup = 2 * time.Millisecond
	guestWrites = 256 << 10
	hostID      = "a-host"
)

func newWorld(t *testing.T, r *rand.Rand) *world {
	w := &world{t: t, rand: r, b: harness.NewBillaged(t), errors: map[string]int{}}
	for _, v := range harness.VMMs() {
		if v.Name == "firecracker-jailed" { // whose VMMs have cgroups, which outlive them
			w.vmm = v
		}
	}
	w.site = harness.NewSite(t, w.vmm)
	w.options = w.site.Options
	w.options.StateDir = harness.ShortDir(t)
	w.options.Env = append(w.options.Env, "UNKEY_METALD_BILLING_ENDPOINT="+w.b.URL, "UNKEY_METALD_HOST_ID="+hostID)
	w.d = harness.Start(t, w.options)
	w.d.Stop(t)
	w.parent = cpuParent(t, filepath.Join(w.options.StateDir, "jail"))
	w.before, _ = counted(t, w.parent) // of a directory that had the same number
	return w
}

// round lets clients work on VMs until metald is killed.
func (w *world) round() {
	w.d = harness.Start(w.t, w.options)
	killed := make(chan struct{})
	time.AfterFunc(time.Duration(w.rand.IntN(900))*time.Millisecond, func() {
		w.d.Kill(w.t)
		close(killed)
	})
	for alive := true; alive; {
		err := w.act()
		select {
		case <-killed:
			alive = false
		default:
			if err == nil {
				w.done++
			} else {
				w.errors[err.Error()]++
			}
		}
	}
	if w.rand.IntN(4) == 0 {
		w.killVMM()
	}
	if w.rand.IntN(6) == 0 {
		w.b.Kill()
		w.b.Start(w.t)
	}
}

// act does one thing to one VM. An error is of a metald that is being killed, or says that the VM is in no state for it.
func (w *world) act() error {
	ctx, cancel := context.WithTimeout(w.t.Context(), 10*time.Second)
	defer cancel()
	if len(w.vms) < 3 {
		return w.make(ctx)
	}
	i := w.rand.IntN(len(w.vms))
	id := w.vms[i]
	var err error
	switch w.rand.IntN(8) {
	case 0:
		_, err = w.d.Client.DeleteVm(ctx, connect.NewRequest(&pb.DeleteVmRequest{VmId: id, Force: true}))
		if err == nil {
			w.vms = append(w.vms[:i], w.vms[i+1:]...)
		}
	case 1:
		w.starts++
		_, err = w.d.Client.RebootVm(ctx, connect.NewRequest(&pb.RebootVmRequest{VmId: id, Force: true}))
	case 2:
		_, err = w.d.Client.PauseVm(ctx, connect.NewRequest(&pb.PauseVmRequest{VmId: id}))
	case 3:
		_, err = w.d.Client.ResumeVm(ctx, connect.NewRequest(&pb.ResumeVmRequest{VmId: id}))
	case 4:
		_, err = w.d.Client.ShutdownVm(ctx, connect.NewRequest(&pb.ShutdownVmRequest{VmId: id, Force: true}))
	default:
		w.starts++
		_, err = w.d.Client.BootVm(ctx, connect.NewRequest(&pb.BootVmRequest{VmId: id}))
	}
	if harness.Code(err) == connect.CodeNotFound { // its creation was cut off
		w.vms = append(w.vms[:i], w.vms[i+1:]...)
	}
	return err
}

func (w *world) make(ctx context.Context) error {
	w.made++
	w.starts++
	id := fmt.Sprintf("vm-%d", w.made)
	w.vms = append(w.vms, id)
	args := fmt.Sprintf("%s=forever %s=%d", guest.ArgBurn, guest.ArgWrite, guestWrites)
	_, err := w.d.Client.CreateVm(ctx, connect.NewRequest(&pb.CreateVmRequest{VmId: id, TenantId: "acme", Config: &pb.VmConfig{
		Cpu:     &pb.CpuConfig{VcpuCount: 1},
		Memory:  &pb.MemoryConfig{SizeBytes: memory},
		Boot:    &pb.BootConfig{KernelPath: w.site.Kernels[w.vmm.Name], KernelArgs: args},
		Storage: []*pb.StorageDevice{{Path: w.site.RootDisks[w.vmm.Name]}},
	}}))
	if err == nil {
		_, err = w.d.Client.BootVm(ctx, connect.NewRequest(&pb.BootVmRequest{VmId: id}))
	}
	return err
}

// killVMM kills a VMM while nobody watches.
func (w *world) killVMM() {
	for _, pid := range w.vmmsOf() {
		_ = unix.Kill(pid, unix.SIGKILL)
		return
	}
}

// vmmsOf lists the processes in the cgroups of this metald's VMs.
func (w *world) vmmsOf() (pids []int) {
	files, err := filepath.Glob(filepath.Join(w.parent, "*", "cgroup.procs"))
	must(w.t, err)
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			continue
		}
		var pid int
		if n, _ := fmt.Sscan(string(text), &pid); n == 1 && pid > 0 {
			pids = append(pids, pid)
		}
	}
	return pids
}

// wantBillIsTruth compares the bill of all VMs with what the kernel counted of them, in all their lives.
func (w *world) wantBillIsTruth() {
	w.t.Helper()
	total := usageOf(w.t.Context(), w.t, w.d, &billing.GetUsageRequest{TenantId: "acme"})
	if len(total) != 1 {
		w.t.Fatalf("%d windows, want one", len(total))
	}
	u := total[0].GetUsage()
	counted, unit := counted(w.t, w.parent)
	counted -= w.before
	billed := big128(u.GetCpuNs())
	off := new(big.Int).Sub(billed, big.NewInt(int64(counted)))
	w.t.Logf("billed %s ns of CPU in %d VMs, the kernel counted %d: %s apart; %d gap ticks", billed, w.made, counted, off, u.GetGapTicks())
	// Metald may be killed in the moment in which a VMM has ended and its last reading is not in the log.
	unread := w.unread()
	// A life is counted in whole units; and on cgroup v1 a VMM is billed what it used before it was in its cgroup.
	if least, most := big.NewInt(int64(unit-1)*-w.starts-unread*int64(hostCPUs*(sample+lateEnough))), big.NewInt(w.starts*int64(beforeGroup)); off.Cmp(least) < 0 || off.Cmp(most) > 0 {
		w.t.Errorf("billed %s ns of CPU, the kernel counted %d: %s apart, with %d VMMs at most", billed, counted, off, w.starts)
	}
	if unread > int64(w.made/4+1) {
		w.t.Errorf("of %d VMs, %d have a life whose CPU time was not read to its end", w.made, unread)
	}
	held := new(big.Int).Add(big128(u.GetRunningNs()), big128(u.GetPausedNs()))
	held.Add(held, big128(u.GetUnobservedNs()))
	if most := held.Mul(held, big.NewInt(memory)); big128(u.GetMemoryAllocatedByteNs()).Cmp(most) > 0 {
		w.t.Errorf("billed %s byte·ns of memory; the VMs can have had %s", big128(u.GetMemoryAllocatedByteNs()), most)
	}
}

// unread is how many VMs have a life whose CPU time was not read to its end, and so is billed to its last tick.
func (w *world) unread() (n int64) {
	for i := range w.made {
		of := &billing.GetUsageRequest{TenantId: "acme", VmId: fmt.Sprintf("vm-%d", i+1)}
		reply, err := w.d.Client.GetUsage(w.t.Context(), connect.NewRequest(of))
		if harness.Code(err) == connect.CodeNotFound { // it was never created
			continue
		}
		must(w.t, err)
		for _, win := range reply.Msg.GetWindows() {
			if slices.Contains(win.GetUsage().GetIncomplete(), billing.Measure_MEASURE_CPU) {
				w.t.Logf("vm-%d was not read to its end: %v", i+1, win.GetUsage())
				n++
			}
		}
	}
	return n
}

// wantReceived waits until billaged has closed every incarnation, and compares its bill with metald's.
func (w *world) wantReceived() {
	w.t.Helper()
	ctx := w.t.Context()
	harness.Eventually(w.t, 2*time.Minute, "billaged has received everything", func() bool {
		list, err := w.d.Client.ListVms(ctx, connect.NewRequest(&pb.ListVmsRequest{}))
		must(w.t, err)
		sessions, err := w.b.Client.GetActiveBillingSessions(ctx, connect.NewRequest(&billing.GetActiveBillingSessionsRequest{InstanceId: hostID}))
		return err == nil && len(sessions.Msg.GetSessions()) == 0 && len(list.Msg.GetVms()) == 0 && w.sameBill(ctx)
	})
}

func (w *world) sameBill(ctx context.Context) bool {
	req := &billing.GetUsageRequest{TenantId: "acme"}
	theirs, err := w.b.Client.GetUsage(ctx, connect.NewRequest(req))
	if err != nil || len(theirs.Msg.GetWindows()) != 1 {
		return false
	}
	if q := theirs.Msg.GetQuarantined(); q != 0 {
		w.t.Fatalf("billaged set %d values aside", q)
	}
	ours := usageOf(ctx, w.t, w.d, req)
	return len(ours) == 1 && proto.Equal(ours[0].GetUsage(), theirs.Msg.GetWindows()[0].GetUsage())
}
