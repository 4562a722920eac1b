package firecracker

import (
	"context"
	"os"

	"github.com/unkeyed/unkey/go/deploy/metald/internal/backend/types"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/host/kvm"
)

// Check says what this host lacks for Firecracker to work. Whether its KVM runs guests is found out by a trial boot,
// where there is a kernel to try it with; it takes up to canaryTimeout, once per boot of the host.
func (b *Backend) Check(ctx context.Context) error {
	firecracker, _, err := b.vmm(ctx)
	if err != nil {
		return err
	}
	if b.cfg.Jail != nil {
		if os.Geteuid() != 0 {
			return types.Errorf(types.KindPrecondition, "the jailer needs root; run metald as root, or set UNKEY_METALD_JAILER_ENABLED=false to run VMMs without it")
		}
		if err := b.openCage(); err != nil {
			return err
		}
	} else if os.Geteuid() == 0 { // the jailer makes a device that is the VM's own
		if err := kvm.OthersOpen(); err != nil {
			return types.Errorf(types.KindPrecondition, "the users of VMs cannot use KVM: %w", err)
		}
	}
	return b.trial(firecracker.Path).KVM(ctx, Name, b.kernels.check, b.cfg.MustProve)
}

// Prepare has nothing more to find out than Check did.
func (b *Backend) Prepare(context.Context) error { return nil }
