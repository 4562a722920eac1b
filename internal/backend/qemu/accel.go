package qemu

import (
	"bufio"
	"context"
	"log/slog"
	"os"
	"strconv"
	"strings"

	"github.com/unkeyed/unkey/go/deploy/metald/internal/backend/types"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/host/kvm"
)

// The accelerators.
const (
	accelAuto = "auto"
	accelKVM  = "kvm"
	accelTCG  = "tcg"
)

// accelerator decides what runs the guests' code, once.
type accelerator struct {
	mode   string
	probe  func() kvm.Verdict
	canary func(context.Context) (kvm.Verdict, error)
	log    *slog.Logger

	turn    chan struct{} // holds one token while somebody decides
	verdict *kvm.Verdict  // belongs to whoever has the turn
}

// choose returns accelKVM or accelTCG. Callers wait for the one that tries KVM; where its ctx ends, the next one tries.
// The error, in the mode kvm only, is KindPrecondition and says what KVM lacks.
func (a *accelerator) choose(ctx context.Context) (string, error) {
	if a.mode == accelTCG {
		return accelTCG, nil
	}
	select {
	case a.turn <- struct{}{}:
		defer func() { <-a.turn }()
	case <-ctx.Done():
		return "", types.Errorf(types.KindCanceled, "wait for the trial of KVM: %w", context.Cause(ctx))
	}
	if a.verdict != nil {
		return a.apply(*a.verdict)
	}
	v, final, err := a.try(ctx)
	if err != nil {
		return "", err
	}
	chosen, err := a.apply(v)
	if final {
		a.verdict = &v
		a.log.Info("decided about KVM", "usable", v.Usable, "why", v.Why, "accel", a.mode, "guests_run_on", chosen)
	}
	return chosen, err
}

func (a *accelerator) apply(v kvm.Verdict) (string, error) {
	switch {
	case v.Usable:
		return accelKVM, nil
	case a.mode == accelAuto:
		return accelTCG, nil
	}
	return "", types.Errorf(types.KindPrecondition, "KVM cannot be used on this host: %s", v.Why)
}

// try goes up the levels at which KVM can fail: the device, its interface, and a guest that comes up. Final is false
// where the last could not be tried, for want of a kernel that may be there later.
func (a *accelerator) try(ctx context.Context) (v kvm.Verdict, final bool, err error) {
	if v = a.probe(); !v.Usable {
		return v, true, nil
	}
	v, err = a.canary(ctx)
	switch {
	case ctx.Err() != nil:
		return v, false, types.Errorf(types.KindCanceled, "the trial of KVM was cut short: %w", context.Cause(ctx))
	case err != nil:
		return kvm.Verdict{Why: err.Error()}, false, nil
	}
	return v, true, nil
}

// hostTSC is the rate of the time stamp counter in kHz, which TCG's guests see too: half of bogomips, in units of 1000
// instructions. 0 where it can't be read.
func hostTSC() int {
	f, err := os.Open("/proc/cpuinfo")
	if err != nil {
		return 0
	}
	defer f.Close()
	for lines := bufio.NewScanner(f); lines.Scan(); {
		name, value, _ := strings.Cut(lines.Text(), ":")
		if strings.TrimSpace(name) == "bogomips" {
			mips, _ := strconv.ParseFloat(strings.TrimSpace(value), 64)
			return int(mips * 500)
		}
	}
	return 0
}
