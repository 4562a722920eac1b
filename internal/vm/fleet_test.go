package vm_test

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"github.com/unkeyed/unkey/go/deploy/metald/internal/backend/fake"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/backend/types"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/host/dir"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/vm"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/vm/lifecycle"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/vm/store"
)

// witness is a backend that tells what it was asked, and lacks what it is told to.
type witness struct {
	*fake.Backend
	lacks  atomic.Pointer[error]
	checks atomic.Int32
	began  chan struct{} // gets something when a check begins
	block  chan struct{} // a check waits for it to be closed; nil: it does not

	mu     sync.Mutex
	owners map[types.VMID][2]uint32 // uid and gid of the last create
	kept   [][]types.VMID           // per sweep
}

func newWitness(name string, host *fake.Host) *witness {
	return &witness{Backend: fake.Called(name, host), began: make(chan struct{}, 100), owners: map[types.VMID][2]uint32{}}
}

// asked waits until a check has begun.
func (w *witness) asked(t *testing.T) {
	t.Helper()
	select {
	case <-w.began:
	case <-time.After(patience):
		t.Fatal("nothing was checked")
	}
}

func (w *witness) lack(err error) { w.lacks.Store(&err) }

func (w *witness) Check(ctx context.Context) error {
	w.checks.Add(1)
	w.began <- struct{}{}
	if w.block != nil {
		select {
		case <-w.block:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	if err := w.lacks.Load(); err != nil {
		return *err
	}
	return nil
}

func (w *witness) Create(ctx context.Context, req types.CreateRequest) (types.Machine, error) {
	w.mu.Lock()
	w.owners[req.ID] = [2]uint32{req.UID, req.GID}
	w.mu.Unlock()
	return w.Backend.Create(ctx, req)
}

func (w *witness) Sweep(_ context.Context, keep []types.Handle) error {
	var ids []types.VMID
	for _, h := range keep {
		ids = append(ids, h.VM)
	}
	slices.Sort(ids)
	w.mu.Lock()
	defer w.mu.Unlock()
	w.kept = append(w.kept, ids)
	return nil
}

// newFleet is a metald whose own backend is the fake, and that has second beside it.
func newFleet(t *testing.T) (*metald, *witness) {
	d := newMetald(t)
	second := newWitness("second", d.host)
	d.others = []vm.Other{{Backend: second}}
	d.restart()
	return d, second
}

func (d *metald) createOn(backend string, id types.VMID) (vm.Info, error) {
	return d.CreateOn(context.Background(), vm.CreateRequest{Backend: backend, ID: id, Spec: d.spec()})
}

func (d *metald) mustCreateOn(t *testing.T, backend string, id types.VMID) {
	t.Helper()
	if info, err := d.createOn(backend, id); err != nil || info.State != lifecycle.Created {
		t.Fatalf("create %s on %q: %+v, %v", id, backend, info, err)
	}
}

// backends lists what each VM is on.
func (d *metald) backends() map[types.VMID]string {
	on := map[types.VMID]string{}
	for _, info := range d.List(vm.ListQuery{Limit: 1000}).VMs {
		on[info.ID] = info.Backend
	}
	return on
}

func TestVMsOfTwoBackendsAreOneFleet(t *testing.T) {
	defer goleak.VerifyNone(t)
	d, second := newFleet(t)
	d.mustCreateOn(t, "", "own")
	d.mustCreateOn(t, "second", "other")
	d.mustCreateOn(t, fake.Name, "by-name")
	want := map[types.VMID]string{"own": fake.Name, "other": "second", "by-name": fake.Name}
	for _, id := range []types.VMID{"own", "other"} {
		if _, err := d.Boot(t.Context(), id); err != nil {
			t.Fatal(err)
		}
	}
	d.restart()
	if diff := cmp.Diff(want, d.backends()); diff != "" {
		t.Errorf("after a restart (-want +got):\n%s", diff)
	}
	if got := second.kept[len(second.kept)-1]; !slices.Equal(got, []types.VMID{"by-name", "other", "own"}) {
		t.Errorf("the sweep of one backend was to keep %v, and not what belongs to all", got)
	}
	for _, id := range []types.VMID{"own", "other"} {
		if info, err := d.Pause(t.Context(), id); err != nil || info.State != lifecycle.Paused || info.Health != "" {
			t.Errorf("%s after a restart: %+v, %v", id, info, err)
		}
	}

	// The other way round: what was the default is what has to be asked for now.
	if _, err := d.Shutdown(t.Context(), "own", true, 0); err != nil {
		t.Fatal(err)
	}
	d.wrap = func(types.Backend) types.Backend { return second }
	d.others = []vm.Other{{Backend: newWitness(fake.Name, d.host)}}
	d.restart()
	if diff := cmp.Diff(want, d.backends()); diff != "" {
		t.Errorf("with another default (-want +got):\n%s", diff)
	}
	if info, err := d.Boot(t.Context(), "own"); err != nil || info.Backend != fake.Name || info.Incarnation != 2 {
		t.Errorf("booted again: %+v, %v", info, err)
	}
	if info, err := d.Resume(t.Context(), "other"); err != nil || info.State != lifecycle.Running {
		t.Errorf("resumed: %+v, %v", info, err)
	}
	d.close()
}

func TestTheBackendIsPartOfWhatWasAsked(t *testing.T) {
	defer goleak.VerifyNone(t)
	d, _ := newFleet(t)
	d.mustCreateOn(t, "second", "a")
	for _, backend := range []string{"second", ""} { // who asks for none takes it where it is
		d.mustCreateOn(t, backend, "a")
	}
	_, err := d.createOn(fake.Name, "a")
	if wantKindOf(t, err, types.KindExists); err == nil || !strings.Contains(err.Error(), "on the backend second") {
		t.Errorf("the same config on another backend: %v", err)
	}
	_, err = d.createOn("third", "b")
	if wantKindOf(t, err, types.KindInvalid); err == nil || !strings.Contains(err.Error(), `backend: "third" is none of fake, second`) {
		t.Errorf("an unknown backend: %v", err)
	}
	if n := d.List(vm.ListQuery{Limit: 10}).Total; n != 1 {
		t.Errorf("%d VMs", n)
	}
	d.close()
}

func wantKindOf(t *testing.T, err error, kind types.Kind) {
	t.Helper()
	if err == nil || types.KindOf(err) != kind {
		t.Errorf("%v is of kind %d, want %d", err, types.KindOf(err), kind)
	}
}

func TestABackendIsCheckedWhenItIsNeeded(t *testing.T) {
	defer goleak.VerifyNone(t)
	d, second := newFleet(t)
	if n := second.checks.Load(); n != 0 {
		t.Errorf("checked %d times at the start", n)
	}
	second.lack(errors.New("there is no second on PATH"))
	for range 2 {
		_, err := d.createOn("second", "a")
		if wantKindOf(t, err, types.KindPrecondition); err == nil || !strings.Contains(err.Error(), "there is no second on PATH") {
			t.Errorf("on a backend that is not installed: %v", err)
		}
	}
	if _, err := d.Get("a"); types.KindOf(err) != types.KindNotFound {
		t.Errorf("what could not be created: %v", err)
	}
	if got := d.Backends(); len(got) != 2 || !got[0].Own || got[0].Lacks != nil || !got[1].Checked || got[1].Lacks == nil {
		t.Errorf("the backends are %+v", got)
	}
	second.lack(nil) // it is installed
	d.mustCreateOn(t, "second", "a")
	checks := second.checks.Load()
	d.mustCreateOn(t, "second", "b")
	if n := second.checks.Load(); n != checks {
		t.Errorf("what was found usable was checked again")
	}
	d.restart()
	if n := second.checks.Load(); n != checks {
		t.Errorf("a VMM that is alive was not taken over without a check")
	}
	// A VM that has no VMM needs the backend to boot, and says what is missing.
	if _, err := d.Boot(t.Context(), "a"); err != nil {
		t.Fatal(err)
	}
	if _, err := d.Shutdown(t.Context(), "a", true, 0); err != nil {
		t.Fatal(err)
	}
	d.restartWith(newWitness("second", d.host))
	second = d.others[0].Backend.(*witness)
	second.lack(errors.New("it was uninstalled"))
	_, err := d.Boot(t.Context(), "a")
	if wantKindOf(t, err, types.KindPrecondition); err == nil || !strings.Contains(err.Error(), "it was uninstalled") {
		t.Errorf("boot: %v", err)
	}
	second.lack(nil)
	if info, err := d.Boot(t.Context(), "a"); err != nil || info.Backend != "second" {
		t.Errorf("boot once it is there again: %+v, %v", info, err)
	}
	d.close()
}

func (d *metald) restartWith(other types.Backend) {
	d.stop()
	d.others = []vm.Other{{Backend: other}}
	d.start()
}

// Many who ask at once for a backend that cannot be used share what is found out.
func TestAsksForABackendShareItsCheck(t *testing.T) {
	defer goleak.VerifyNone(t)
	d, second := newFleet(t)
	second.block = make(chan struct{})
	second.lack(errors.New("no KVM"))
	var calls sync.WaitGroup
	ask := func(id types.VMID) {
		calls.Go(func() {
			_, err := d.createOn("second", id)
			wantKindOf(t, err, types.KindPrecondition)
		})
	}
	ask("first")
	second.asked(t)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := d.CreateOn(ctx, vm.CreateRequest{Backend: "second", ID: "hasty", Spec: d.spec()})
	wantKindOf(t, err, types.KindCanceled)
	for _, id := range []types.VMID{"a", "b", "c", "d", "e"} {
		ask(id)
	}
	close(second.block)
	calls.Wait()
	if n := second.checks.Load(); n > 6 {
		t.Errorf("%d checks", n)
	}
	d.close()
}

func TestUsersOfVMMsAreTheBackends(t *testing.T) {
	defer goleak.VerifyNone(t)
	d := newMetald(t)
	first, second, third := newWitness("first", d.host), newWitness("second", d.host), newWitness("third", d.host)
	d.wrap = func(types.Backend) types.Backend { return first }
	d.others = []vm.Other{{Backend: second, UIDBase: 5000, GIDBase: 6000}, {Backend: third, UIDBase: 5000}}
	d.restart()
	for i, backend := range []string{"first", "second", "third", "second"} {
		d.mustCreateOn(t, backend, types.VMID(backend+string(rune('a'+i))))
	}
	got := map[types.VMID][2]uint32{}
	for _, w := range []*witness{first, second, third} {
		for id, owner := range w.owners {
			got[id] = owner
		}
	}
	// Slots are of all backends, or VMs on two with one range would be one user.
	want := map[types.VMID][2]uint32{"firsta": {0, 0}, "secondb": {5001, 6001}, "thirdc": {5002, 5002}, "secondd": {5003, 6003}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("users and groups (-want +got):\n%s", diff)
	}
	d.close()
}

// A record of before VMs had a backend of their own says it in its handle, or it was the only one.
func TestARecordWithoutABackend(t *testing.T) {
	defer goleak.VerifyNone(t)
	d, _ := newFleet(t)
	d.mustCreateOn(t, "second", "alive")
	d.running("over")
	if _, err := d.Shutdown(t.Context(), "over", true, 0); err != nil {
		t.Fatal(err)
	}
	d.stop()
	d.editRecords(t, func(rec *store.Record) { rec.Backend = "" })
	d.start()
	want := map[types.VMID]string{"alive": "second", "over": fake.Name}
	if diff := cmp.Diff(want, d.backends()); diff != "" {
		t.Errorf("backends (-want +got):\n%s", diff)
	}
	d.close()
}

func (d *metald) editRecords(t *testing.T, edit func(*store.Record)) {
	t.Helper()
	records, err := d.store.All()
	if err != nil {
		t.Fatal(err)
	}
	for _, rec := range records {
		edit(&rec)
		if err := d.store.Put(rec); err != nil {
			t.Fatal(err)
		}
	}
}

// strangers ends fakes by what a handle tells, whatever made them.
type strangers struct{ host *fake.Host }

func (s strangers) Alive(h types.Handle) error {
	if slices.Contains(s.host.Alive(), h.VM) {
		return nil
	}
	return types.ErrGone
}

func (s strangers) End(_ context.Context, h types.Handle) error {
	s.host.Kill(h.VM)
	return dir.Remove(h.RunDir)
}

// VMs whose backend is not in this build stop no start and are not lost: they are listed as they were last seen, with
// a word that this is not so now, and can be ended and deleted.
func TestVMsOfABackendThatThereIsNot(t *testing.T) {
	defer goleak.VerifyNone(t)
	d, _ := newFleet(t)
	d.strange = strangers{d.host}
	for _, id := range []types.VMID{"deleted", "ended", "dies", "over"} {
		d.mustCreateOn(t, "second", id)
		if _, err := d.Boot(t.Context(), id); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := d.Shutdown(t.Context(), "over", true, 0); err != nil {
		t.Fatal(err)
	}
	d.running("own")
	d.stop()
	d.others = nil
	d.start()
	for _, id := range []types.VMID{"deleted", "ended", "dies"} {
		if info, err := d.Get(id); err != nil || info.Backend != "second" || !strings.Contains(info.Health, "is not known") {
			t.Errorf("%s: %+v, %v", id, info, err)
		}
		if _, err := d.Pause(t.Context(), id); types.KindOf(err) != types.KindUnavailable {
			t.Errorf("pause %s: %v", id, err)
		}
	}
	if info, err := d.Get("own"); err != nil || info.State != lifecycle.Running || info.Health != "" {
		t.Errorf("its own: %+v, %v", info, err)
	}
	if _, err := d.Boot(t.Context(), "over"); types.KindOf(err) != types.KindPrecondition {
		t.Errorf("boot one that is shut down: %v", err)
	}
	_, err := d.createOn("second", "new")
	wantKindOf(t, err, types.KindInvalid)

	if err := d.Delete(t.Context(), "deleted", true); err != nil {
		t.Errorf("delete: %v", err)
	}
	if info, err := d.Shutdown(t.Context(), "ended", true, 0); err != nil || info.State != lifecycle.Shutdown {
		t.Errorf("shut down by force: %+v, %v", info, err)
	}
	d.host.Kill("dies")
	d.eventually("dies", func(info vm.Info, err error) bool {
		return err == nil && info.State == lifecycle.Shutdown && info.Exit.Reason == types.ReasonUnobserved
	})
	for _, id := range []types.VMID{"ended", "dies", "over"} {
		if err := d.Delete(t.Context(), id, false); err != nil {
			t.Errorf("delete %s: %v", id, err)
		}
	}
	d.close()
}

// Without a way to end them they are left alone, until the host restarts.
func TestAVMMThatNobodyHereCanEnd(t *testing.T) {
	defer goleak.VerifyNone(t)
	d := newMetald(t)
	d.running("a")
	d.stop()
	d.editRecords(t, func(rec *store.Record) { rec.Handle.Backend = "another" })
	d.start()
	if info, err := d.Get("a"); err != nil || info.State != lifecycle.Running || !strings.Contains(info.Health, "of the backend another") {
		t.Errorf("it is %+v, %v", info, err)
	}
	if _, err := d.Shutdown(t.Context(), "a", true, 0); types.KindOf(err) != types.KindPrecondition {
		t.Errorf("shut down by force: %v", err)
	}
	d.host.Reboot()
	d.stop()
	d.editRecords(t, func(rec *store.Record) { rec.Handle.Process.BootID = "of an earlier boot" })
	d.start()
	if info, err := d.Get("a"); err != nil || info.State != lifecycle.Shutdown || info.Exit == nil || info.Exit.Reason != types.ReasonHostReboot {
		t.Errorf("after a restart of the host it is %+v, %v", info, err)
	}
	d.close()
}

// Who is billed is asked for with the VM, kept over restarts, and no retry changes it.
func TestTheTenantIsPartOfWhatWasAsked(t *testing.T) {
	defer goleak.VerifyNone(t)
	d, _ := newFleet(t)
	create := func(id types.VMID, tenant string) (vm.Info, error) {
		return d.CreateOn(context.Background(), vm.CreateRequest{ID: id, Tenant: tenant, Spec: d.spec()})
	}
	for _, asked := range []struct {
		id             types.VMID
		tenant, billed string
	}{{"named", "acme", "acme"}, {"named", "acme", "acme"}, {"nobodys", "", vm.Unattributed}, {"nobodys", vm.Unattributed, vm.Unattributed}} {
		if info, err := create(asked.id, asked.tenant); err != nil || info.Tenant != asked.billed {
			t.Errorf("%+v: %+v, %v", asked, info, err)
		}
	}
	for id, tenants := range map[types.VMID][]string{"named": {"", "other"}, "nobodys": {"acme"}} {
		for _, tenant := range tenants {
			_, err := create(id, tenant)
			if wantKindOf(t, err, types.KindExists); err == nil || !strings.Contains(err.Error(), "another tenant") {
				t.Errorf("%s for %q: %v", id, tenant, err)
			}
		}
	}
	d.restart()
	for id, want := range map[types.VMID]string{"named": "acme", "nobodys": vm.Unattributed} {
		if info, err := d.Get(id); err != nil || info.Tenant != want {
			t.Errorf("after a restart %s is billed to %q, %v", id, info.Tenant, err)
		}
	}
	d.close()
}
