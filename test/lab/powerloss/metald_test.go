package powerloss

import (
	"os"
	"slices"
	"testing"
	"time"

	pb "github.com/unkeyed/unkey/go/deploy/metald/gen/vmprovisioner/v1"
	"github.com/unkeyed/unkey/go/deploy/metald/test/lab"
)

// TestMeteredHostLosesPower takes the power of a host at random moments after the first of three busy guests was booted.
// metald starts on what is left: each incarnation is closed with its last durable tick, which is at most a tick and a sync
// older than the last word of the host, and what is billed is what the kernel had counted by then.
func TestMeteredHostLosesPower(t *testing.T) {
	payload := lab.Payload{
		Assets:   made + "/assets",
		Commands: map[string]string{"host": "./test/lab/powerloss/host", "metald": "./cmd/api"},
		Programs: map[string]string{},
	}
	for _, name := range []string{"firecracker", "jailer"} {
		if path := os.Getenv(lab.Variable(name)); path != "" {
			payload.Programs[name] = path
		}
	}
	h := newHost(t, 50, payload)
	h.boot()
	var all []Verdict
	var epochs uint64 // the last that was given
	for n := range h.cycles {
		l := h.loseWithin(6*time.Second, "run", func(w Word) bool { return len(w.CPU) > 0 })
		h.boot()
		var r Recovery
		h.ask("recover", &r)
		if r.Failed != "" {
			t.Fatal(r.Failed)
		}
		t.Logf("cycle %d: metald answered after %s", n+1, time.Duration(r.Ready).Round(time.Millisecond))
		all = append(all, judge(t, l, r, epochs)...)
		for _, life := range r.After.Lives {
			epochs = max(epochs, life.Epoch)
		}
	}
	summarize(t, all)
}

// judge looks at all that a loss of power has ended. before is the last epoch that an earlier boot was given.
func judge(t *testing.T, l Loss, r Recovery, before uint64) (all []Verdict) {
	t.Helper()
	for _, bad := range slices.Concat(r.Before.Bad, r.After.Bad, r.Said) {
		t.Error(bad)
	}
	found := map[string]bool{}
	billed := map[string]uint64{}
	for _, life := range r.After.Lives {
		billed[life.VM] += life.FinalCPU
		i := slices.IndexFunc(r.Before.Lives, func(b Life) bool { return b.Epoch == life.Epoch })
		if i < 0 {
			t.Errorf("epoch %d of %s began with no VM booted", life.Epoch, life.VM)
			continue
		}
		if life.Boot != l.Boot {
			continue
		}
		if life.Epoch <= before {
			t.Errorf("epoch %d of %s, and %d was given to an earlier boot", life.Epoch, life.VM, before)
		}
		found[life.VM] = true
		v := Judge(l, r.Before.Lives[i], life)
		for _, fault := range v.Faults {
			t.Error(fault)
		}
		t.Logf("%s, epoch %d, %q: %d ticks, %s behind, %s of CPU time unbilled; sync %s, late %s; strict %t",
			life.VM, life.Epoch, life.Reason, life.FinalTicks, v.Lag, v.Unbilled, v.Sync, v.Late, v.Strict())
		all = append(all, v)
	}
	for vm := range l.last().CPU {
		if !found[vm] {
			t.Errorf("%s ran, and the log has no incarnation of it in that boot", vm)
		}
	}
	for _, vm := range r.VMs {
		if vm.State != pb.VmState_VM_STATE_SHUTDOWN.String() {
			t.Errorf("%s is %s after its host lost power", vm.ID, vm.State)
		}
		if vm.CPU != billed[vm.ID] {
			t.Errorf("%s used %d ns of CPU time by GetUsage, and %d by the ends of its incarnations", vm.ID, vm.CPU, billed[vm.ID])
		}
	}
	return all
}

func summarize(t *testing.T, all []Verdict) {
	t.Helper()
	var worst Verdict
	strict := 0
	for _, v := range all {
		if v.Lag > worst.Lag {
			worst = v
		}
		if v.Strict() {
			strict++
		}
	}
	slices.SortFunc(all, func(a, b Verdict) int { return int(a.Lag - b.Lag) })
	if len(all) > 0 {
		t.Logf("%d incarnations: the log was %s behind at the median, at worst %s (sync %s, late %s); %d of them by no more than a tick and a sync",
			len(all), all[len(all)/2].Lag, worst.Lag, worst.Sync, worst.Late, strict)
	}
}
