package cloudhypervisor

import (
	"context"
	"os"

	"github.com/unkeyed/unkey/go/deploy/metald/internal/backend/types"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/host/kvm"
)

// Check says what this host lacks for Cloud Hypervisor to work. Whether its KVM runs guests is found out by a trial boot,
// where there is a kernel to try it with; it takes up to canaryTimeout, once per boot of the host.
func (b *Backend) Check(ctx context.Context) error {
	vmm, err := b.vmm(ctx)
	if err != nil {
		return err
	}
	if b.cfg.Jail != nil {
		if os.Geteuid() != 0 {
			return types.Errorf(types.KindPrecondition, "keeping VMMs apart needs root; run metald as root, or set UNKEY_METALD_JAILER_ENABLED=false to run them without")
		}
		if err := b.cage.Open(); err != nil {
			return err
		}
	}
	if os.Geteuid() == 0 {
		if err := kvm.OthersOpen(); err != nil {
			return types.Errorf(types.KindPrecondition, "the users of VMs cannot use KVM: %w", err)
		}
	}
	canBoot := func(kernel string) error { _, err := bootable(b.kernels, kernel); return err }
	return b.trial(vmm.Path).KVM(ctx, Name, canBoot, b.cfg.MustProve)
}

// Prepare has nothing more to find out than Check did.
func (b *Backend) Prepare(context.Context) error { return nil }
