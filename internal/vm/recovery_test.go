package vm_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"github.com/unkeyed/unkey/go/deploy/metald/internal/backend/fake"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/backend/types"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/guest"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/vm"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/vm/lifecycle"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/vm/store"
)

// patience bounds the waits of these tests.
const patience = 20 * time.Second

func TestOneBrokenVMDoesNotStopTheStart(t *testing.T) {
	defer goleak.VerifyNone(t)
	d := newMetald(t)
	d.running("a")
	d.running("b")
	d.stop()
	broken := filepath.Join(d.dir, "vms", "a") // where its console log is
	if err := errors.Join(os.RemoveAll(broken), os.WriteFile(broken, []byte("no directory"), 0o600)); err != nil {
		t.Fatal(err)
	}
	strays := []string{filepath.Join(d.dir, "vms", "stray"), filepath.Join(d.dir, "run", "stray.1"), filepath.Join(d.dir, "run", ".trash-stray")}
	for _, stray := range strays { // what is mounted in what was being removed stays there
		if err := os.Mkdir(stray, 0o700); err != nil {
			t.Fatal(err)
		}
		if err := unix.Mount("none", stray, "tmpfs", 0, ""); err != nil {
			t.Logf("a stray that cannot be removed is not tried, because nothing can be mounted: %v", err)
			continue
		}
		t.Cleanup(func() { _ = unix.Unmount(stray, unix.MNT_DETACH) })
	}
	d.start()
	for _, id := range []types.VMID{"a", "b"} {
		if info, err := d.Get(id); err != nil || info.State != lifecycle.Running {
			t.Errorf("%s is %+v, %v", id, info, err)
		}
		log, err := d.Console(id)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := log.Tail(100); err != nil {
			t.Errorf("the console of %s: %v", id, err)
		}
	}
	if _, err := d.Pause(t.Context(), "a"); err != nil {
		t.Error(err)
	}
	for _, stray := range strays[:2] { // a backend may have mounted files of a VM that was never made
		if _, err := os.Lstat(stray); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%s is left: %v", stray, err)
		}
	}
	for _, stray := range strays {
		_ = unix.Unmount(stray, 0)
	}
	d.restart()
	d.close()
}

// survivor is a backend whose Create fails without ending the VMM, as where the kernel does not end a process that
// was killed.
type survivor struct {
	types.Backend
	fails atomic.Bool
}

func (b *survivor) Create(ctx context.Context, req types.CreateRequest) (types.Machine, error) {
	m, err := b.Backend.Create(ctx, req)
	if err != nil || !b.fails.Load() {
		return m, err
	}
	m.Release()
	return nil, types.Errorf(types.KindUnavailable, "the VMM got SIGKILL and has not ended")
}

func TestAVMMThatOutlivesItsLaunchIsEnded(t *testing.T) {
	defer goleak.VerifyNone(t)
	d := newMetald(t)
	backend := &survivor{}
	d.wrap = func(b types.Backend) types.Backend { backend.Backend = b; return backend }
	d.restart()

	backend.fails.Store(true)
	if _, err := d.Create(t.Context(), "a", d.spec()); err == nil {
		t.Error("created")
	}
	if alive := d.host.Alive(); len(alive) > 0 {
		t.Errorf("after a create that failed %v are alive", alive)
	}

	backend.fails.Store(false)
	d.running("a")
	if _, err := d.Shutdown(t.Context(), "a", true, 0); err != nil {
		t.Fatal(err)
	}
	backend.fails.Store(true)
	d.host.On(fake.VerbReap, fails)
	if _, err := d.Boot(t.Context(), "a"); err == nil {
		t.Error("booted")
	}
	if records, err := d.store.All(); err != nil || records[0].Handle == nil {
		t.Errorf("a VMM is alive, and no record names it: %+v, %v", records, err)
	}
	backend.fails.Store(false)
	if _, err := d.Boot(t.Context(), "a"); err == nil {
		t.Error("booted beside a VMM that is alive")
	}
	d.host.On(fake.VerbReap, nil)
	if info, err := d.Boot(t.Context(), "a"); err != nil || info.State != lifecycle.Running || len(d.host.Alive()) != 1 {
		t.Errorf("booted to %+v, %v, alive %v", info, err, d.host.Alive())
	}
	d.close()
}

// TestARebootThatIsDoneIsNotDoneAgain starts from what is saved while the next incarnation starts, which lives.
func TestARebootThatIsDoneIsNotDoneAgain(t *testing.T) {
	defer goleak.VerifyNone(t)
	for _, force := range []bool{true, false} {
		d := newMetald(t)
		d.running("a")
		d.restart() // so that nothing of the boot is still to be saved
		var mu sync.Mutex
		var saved []store.Record
		put := d.store.OnPut
		d.store.OnPut = func(rec store.Record) error {
			mu.Lock()
			defer mu.Unlock()
			saved = append(saved, rec)
			return nil
		}
		if _, err := d.Reboot(t.Context(), "a", force, time.Minute); err != nil {
			t.Fatal(err)
		}
		d.stop()
		d.store.OnPut = put
		i := slices.IndexFunc(saved, func(rec store.Record) bool { return rec.Handle != nil && rec.Incarnation == 2 })
		if i < 0 {
			t.Fatalf("no record of the second VMM in %+v", saved)
		}
		if err := d.store.Put(saved[i]); err != nil {
			t.Fatal(err)
		}
		pressed := make(chan struct{}, 10)
		d.host.On(fake.VerbShutdown, func(context.Context, types.VMID) error { pressed <- struct{}{}; return nil })
		d.start()
		if len(pressed) > 0 {
			t.Errorf("force %v: a guest that was rebooted was asked to power off again", force)
		}
		if info, err := d.Get("a"); err != nil || info.State != lifecycle.Running || info.Incarnation != 2 {
			t.Errorf("force %v: it is %+v, %v", force, info, err)
		}
		if records, err := d.store.All(); err != nil || !records[0].RebootBy.IsZero() {
			t.Errorf("force %v: the intent is still in %+v, %v", force, records, err)
		}
		d.close()
	}
}

// A fault of ours costs one operation and neither the daemon nor the id.
func TestAFaultCostsOneOperation(t *testing.T) {
	defer goleak.VerifyNone(t)
	d := newMetald(t)
	d.host.On(fake.VerbCreated, func(context.Context, types.VMID) error { panic("a fault of the backend") })
	if _, err := d.Create(t.Context(), "a", d.spec()); types.KindOf(err) != types.KindInternal {
		t.Errorf("create: %v", err)
	}
	d.host.On(fake.VerbCreated, nil)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if _, err := d.Create(ctx, "a", d.spec()); err != nil {
		t.Errorf("the id is lost: %v", err)
	}
	put := d.store.OnPut
	d.store.OnPut = func(store.Record) error { panic("a fault of the store") }
	if err := d.Delete(t.Context(), "a", true); types.KindOf(err) != types.KindInternal {
		t.Errorf("delete: %v", err)
	}
	d.store.OnPut = put
	d.close()
}

func TestASlotStaysWithTheVMThatGotItFromADeletedOne(t *testing.T) {
	defer goleak.VerifyNone(t)
	d := newMetald(t)
	var full atomic.Bool
	full.Store(true)
	d.store.OnDelete = func(id types.VMID) error {
		if id == "old" && full.Load() {
			return errors.New("the disk is full")
		}
		return nil
	}
	d.running("old")
	if err := d.Delete(t.Context(), "old", true); err != nil {
		t.Fatal(err)
	}
	d.eventuallySlot("new")
	d.stop()
	full.Store(false)
	d.start()
	if _, err := d.Create(t.Context(), "another", d.spec()); err != nil {
		t.Fatal(err)
	}
	slots := map[uint32]types.VMID{}
	records, err := d.store.All()
	if err != nil || len(records) != 2 {
		t.Errorf("the records are %+v, %v", records, err)
	}
	for _, rec := range records {
		if other := slots[rec.Slot]; other != "" {
			t.Errorf("%s and %s have slot %d, and so one user", other, rec.ID, rec.Slot)
		}
		slots[rec.Slot] = rec.ID
	}
	d.close()
}

// eventuallySlot creates a VM in slot 0, once that is free.
func (d *metald) eventuallySlot(id types.VMID) {
	d.t.Helper()
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); {
		if _, err := d.Create(context.Background(), id, d.spec()); err != nil {
			d.t.Fatalf("%v", err)
		}
		records, err := d.store.All()
		i := slices.IndexFunc(records, func(rec store.Record) bool { return rec.ID == id })
		if err == nil && i >= 0 && records[i].Slot == 0 {
			return
		}
		if err := d.Delete(context.Background(), id, true); err != nil {
			d.t.Fatalf("%v", err)
		}
	}
	d.t.Fatalf("slot 0 does not become free")
}

func TestAVMMOfAVMThatIsBeingDeletedIsNotTakenOver(t *testing.T) {
	defer goleak.VerifyNone(t)
	d := newMetald(t)
	d.running("a")
	d.stop()
	var adopted atomic.Int32
	d.host.On(fake.VerbAdopt, fails)
	d.host.On(fake.VerbReap, fails)
	d.start()
	if err := d.Delete(t.Context(), "a", true); err == nil {
		t.Error("deleted, and its VMM lives")
	}
	d.host.On(fake.VerbAdopt, func(context.Context, types.VMID) error { adopted.Add(1); return nil })
	d.host.On(fake.VerbReap, nil)
	<-time.After(2500 * time.Millisecond) // metald tries again after two seconds, and nothing tells that it does not
	if n := adopted.Load(); n > 0 {
		t.Errorf("it was taken over %d times", n)
	}
	d.close()
}

// A client that asks again and again for a shutdown that its guest ignores costs one clock and not one for each.
func TestAskingAgainCostsNothing(t *testing.T) {
	defer goleak.VerifyNone(t)
	d := newMetald(t)
	spec := d.spec()
	spec.Boot.KernelArgs = guest.ArgPower + "=" + guest.PowerIgnore
	if _, err := d.Create(t.Context(), "a", spec); err != nil {
		t.Fatal(err)
	}
	if _, err := d.Boot(t.Context(), "a"); err != nil {
		t.Fatal(err)
	}
	before := runtime.NumGoroutine()
	for range 100 {
		ctx, cancel := context.WithTimeout(t.Context(), 3*time.Millisecond)
		_, err := d.Shutdown(ctx, "a", false, time.Hour)
		cancel()
		if err == nil {
			t.Fatal("a guest that ignores the power button was shut down")
		}
	}
	if more := runtime.NumGoroutine() - before; more > 20 {
		t.Errorf("100 shutdowns that nobody waits for left %d goroutines", more)
	}
	d.close()
}

// A guest that its VMM stopped, for want of room on the host's disk say, is not reported as one that runs.
func TestAGuestThatIsStoppedByItsVMM(t *testing.T) {
	defer goleak.VerifyNone(t)
	d := newMetald(t)
	d.running("a")
	for range 2 {
		d.host.StopGuest("a")
		d.eventually("a", func(info vm.Info, err error) bool {
			return err == nil && info.State == lifecycle.Paused && info.Health == ""
		})
		if info, err := d.Resume(t.Context(), "a"); err != nil || info.State != lifecycle.Running {
			t.Errorf("resumed to %+v, %v", info, err)
		}
		d.restart() // and so does one that was adopted
	}
	d.close()
}
