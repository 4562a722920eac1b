package vm_test

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/unkeyed/unkey/go/deploy/metald/internal/backend/fake"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/backend/types"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/vm/lifecycle"
)

// TestCreatesThatAreNotReadyHoldUpNobody has more VMMs than may be started at once that exist and do not answer.
func TestCreatesThatAreNotReadyHoldUpNobody(t *testing.T) {
	defer goleak.VerifyNone(t)
	const stalled = 80
	d := newMetald(t)
	var exist, done sync.WaitGroup
	exist.Add(stalled)
	free := make(chan struct{})
	d.host.On(fake.VerbCreated, func(ctx context.Context, id types.VMID) error {
		if id == "quick" {
			return nil
		}
		exist.Done()
		select {
		case <-free:
		case <-ctx.Done():
		}
		return ctx.Err()
	})
	for i := range stalled {
		done.Go(func() {
			if _, err := d.Create(context.Background(), types.VMID(fmt.Sprintf("slow%d", i)), d.spec()); err != nil {
				t.Error(err)
			}
		})
	}
	all := make(chan struct{})
	go func() { exist.Wait(); close(all) }()
	select {
	case <-all: // were started, though none was ready
	case <-time.After(20 * time.Second):
		t.Error("VMMs wait for others to be ready")
	}
	if info, err := d.Create(t.Context(), "quick", d.spec()); err != nil || info.State != lifecycle.Created {
		t.Errorf("created %+v, %v", info, err)
	}
	close(free)
	done.Wait()
	d.close()
}
