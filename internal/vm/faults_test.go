package vm_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/unkeyed/unkey/go/deploy/metald/internal/backend/fake"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/backend/types"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/host/disk"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/vm"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/vm/lifecycle"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/vm/store"
)

// running makes a VM whose guest runs.
func (d *metald) running(id types.VMID) vm.Info {
	d.t.Helper()
	if _, err := d.Create(context.Background(), id, d.spec()); err != nil {
		d.t.Fatalf("create: %v", err)
	}
	info, err := d.Boot(context.Background(), id)
	if err != nil {
		d.t.Fatalf("boot: %v", err)
	}
	return info
}

// eventually waits until a VM is as is says.
func (d *metald) eventually(id types.VMID, is func(vm.Info, error) bool) {
	d.t.Helper()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(20 * time.Second); ; <-tick.C {
		info, err := d.Get(id)
		if is(info, err) {
			return
		}
		if time.Now().After(deadline) {
			d.t.Fatalf("%s stays %+v, %v", id, info, err)
		}
	}
}

func fails(context.Context, types.VMID) error { return errors.New("it does not work") }

func TestForceDoesNotWait(t *testing.T) {
	defer goleak.VerifyNone(t)
	d := newMetald(t)
	d.running("a")
	begun := make(chan struct{})
	d.host.On(fake.VerbPause, func(ctx context.Context, _ types.VMID) error {
		close(begun)
		<-ctx.Done() // as a VMM that does not answer
		return types.Errorf(types.KindUnavailable, "no answer")
	})
	paused := make(chan error, 1)
	go func() { _, err := d.Pause(t.Context(), "a"); paused <- err }()
	<-begun
	start := time.Now()
	info, err := d.Shutdown(t.Context(), "a", true, 0)
	if took := time.Since(start); err != nil || info.State != lifecycle.Shutdown || took > 5*time.Second {
		t.Errorf("shut down by force to %s after %s: %v", info.State, took, err)
	}
	if err := <-paused; types.KindOf(err) != types.KindAborted {
		t.Errorf("who was in the way was told: %v", err)
	}
	if _, err := d.Boot(t.Context(), "a"); err != nil {
		t.Errorf("a VM that was shut down by force does not boot: %v", err)
	}
	d.close()
}

func TestAVerbThatFailsLeavesTheObservedState(t *testing.T) {
	defer goleak.VerifyNone(t)
	d := newMetald(t)
	d.running("a")
	d.host.On(fake.VerbPause, fails)
	if _, err := d.Pause(t.Context(), "a"); err == nil {
		t.Error("a pause that does not work succeeded")
	}
	if info, err := d.Get("a"); err != nil || info.State != lifecycle.Running || info.Health != "" {
		t.Errorf("after a pause that was refused: %+v, %v", info, err)
	}
	d.host.On(fake.VerbPause, nil)
	d.host.Mute("a", true)
	if _, err := d.Pause(t.Context(), "a"); types.KindOf(err) != types.KindUnavailable {
		t.Errorf("pause of a VMM that does not answer: %v", err)
	}
	if info, err := d.Get("a"); err != nil || info.Health == "" {
		t.Errorf("a VMM that does not answer is reported as %+v, %v", info, err)
	}
	d.host.Mute("a", false)
	d.eventually("a", func(info vm.Info, err error) bool { return err == nil && info.Health == "" })
	if _, err := d.Pause(t.Context(), "a"); err != nil {
		t.Error(err)
	}
	d.close()
}

func TestABootThatFailsLeavesNoVMM(t *testing.T) {
	defer goleak.VerifyNone(t)
	d := newMetald(t)
	d.running("a")
	if _, err := d.Shutdown(t.Context(), "a", true, 0); err != nil {
		t.Fatal(err)
	}
	for _, verb := range []string{fake.VerbCreate, fake.VerbCreated, fake.VerbBoot} {
		d.host.On(verb, fails)
		if _, err := d.Boot(t.Context(), "a"); err == nil {
			t.Errorf("booted although %s does not work", verb)
		}
		d.host.On(verb, nil)
		if info, err := d.Get("a"); err != nil || info.State != lifecycle.Shutdown || info.PID != 0 || len(d.host.Alive()) != 0 {
			t.Errorf("%s did not work: %+v, %v, alive %v", verb, info, err, d.host.Alive())
		}
	}
	if _, err := d.Boot(t.Context(), "a"); err != nil {
		t.Error(err)
	}
	d.close()
}

func TestACreateThatCannotBeUndoneKeepsItsRecord(t *testing.T) {
	defer goleak.VerifyNone(t)
	d := newMetald(t)
	d.host.On(fake.VerbDestroy, fails)
	d.host.On(fake.VerbReap, fails)
	put := d.store.OnPut
	d.store.OnPut = func(rec store.Record) error {
		if rec.Phase == store.Live {
			return errors.New("the disk is full")
		}
		return nil
	}
	if _, err := d.Create(t.Context(), "a", d.spec()); err == nil {
		t.Error("created without a record")
	}
	if records, err := d.store.All(); err != nil || len(records) != 1 || records[0].Handle == nil {
		t.Errorf("a VMM is alive and the records are %+v, %v", records, err)
	}
	if _, err := d.Create(t.Context(), "a", d.spec()); types.KindOf(err) != types.KindUnavailable {
		t.Errorf("created beside what could not be removed: %v", err)
	}
	d.store.OnPut = put
	d.host.On(fake.VerbDestroy, nil)
	d.restart() // while a VMM of it is still alive
	if _, err := d.Create(t.Context(), "a", d.spec()); types.KindOf(err) != types.KindUnavailable {
		t.Errorf("created beside what could not be removed: %v", err)
	}
	d.host.On(fake.VerbReap, nil)
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	_, err := d.Create(t.Context(), "a", d.spec())
	for deadline := time.Now().Add(20 * time.Second); err != nil && time.Now().Before(deadline); <-tick.C {
		_, err = d.Create(t.Context(), "a", d.spec())
	}
	if err != nil {
		t.Errorf("the id cannot be used again: %v", err)
	}
	d.close()
}

func (d *metald) restart() { d.stop(); d.start() }

func TestADeletionThatBeganIsFinished(t *testing.T) {
	defer goleak.VerifyNone(t)
	d := newMetald(t)
	for _, again := range []func() error{
		func() error { return d.Delete(t.Context(), "a", true) },
		func() error { d.restart(); return nil },
		func() error { // nobody asks again
			d.eventually("a", func(_ vm.Info, err error) bool { return types.KindOf(err) == types.KindNotFound })
			return nil
		},
	} {
		d.running("a")
		d.host.On(fake.VerbDestroy, fails)
		if err := d.Delete(t.Context(), "a", true); err == nil {
			t.Error("deleted, and its VMM lives")
		}
		if info, err := d.Get("a"); err != nil || info.State != lifecycle.Running {
			t.Errorf("a VM whose VMM lives is %+v, %v", info, err)
		}
		if _, err := d.Pause(t.Context(), "a"); types.KindOf(err) != types.KindPrecondition {
			t.Errorf("a VM that is being deleted was paused: %v", err)
		}
		if _, err := d.Create(t.Context(), "a", d.spec()); types.KindOf(err) != types.KindUnavailable {
			t.Errorf("a VM that is being deleted was created again: %v", err)
		}
		d.host.On(fake.VerbDestroy, nil)
		if err := again(); err != nil {
			t.Error(err)
		}
		if _, err := d.Get("a"); types.KindOf(err) != types.KindNotFound {
			t.Errorf("it is still there: %v", err)
		}
	}
	d.close()
}

// TestARebootSurvivesACrashAtEachStep restarts metald from each record that a reboot saves, all processes gone.
func TestARebootSurvivesACrashAtEachStep(t *testing.T) {
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
		if len(saved) < 3 {
			t.Errorf("a reboot saved %d records", len(saved))
		}
		for i, rec := range saved[:len(saved)-1] { // the last says that it is done
			d.host.Reboot()
			if err := d.store.Put(rec); err != nil {
				t.Fatal(err)
			}
			d.start()
			if info, err := d.Get("a"); err != nil || info.State != lifecycle.Running {
				t.Errorf("force %v: restarted from record %d, state %s, the VM is %s, exit %+v, %v", force, i, rec.State, info.State, info.Exit, err)
			}
			d.stop()
		}
		d.start()
		d.close()
	}
}

func TestAVolumeStaysWithTheVMThatGotItFromADeletedOne(t *testing.T) {
	defer goleak.VerifyNone(t)
	d := newMetald(t)
	d.roots = disk.Roots{Assets: filepath.Join(d.dir, "assets"), Volumes: d.dir}
	d.restart()
	if err := os.WriteFile(filepath.Join(d.dir, "volume"), []byte("bytes"), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := d.Create(t.Context(), "new", d.spec()); err != nil {
		t.Fatal(err)
	}
	d.stop()
	records, err := d.store.All()
	if err != nil || len(records) != 1 || len(records[0].Volumes) == 0 {
		t.Fatalf("the records are %+v, %v", records, err)
	}
	old := store.Record{ID: "old", Slot: 7, Phase: store.Deleting, State: lifecycle.Shutdown, Spec: records[0].Spec, Volumes: records[0].Volumes}
	if err := d.store.Put(old); err != nil {
		t.Fatal(err)
	}
	d.start()
	if _, err := d.Create(t.Context(), "other", d.spec()); types.KindOf(err) != types.KindPrecondition {
		t.Errorf("a volume that is attached was attached again: %v", err)
	}
	d.close()
}
