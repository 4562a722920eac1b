package vm_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"
	"pgregory.net/rapid"

	"github.com/unkeyed/unkey/go/deploy/metald/internal/backend/fake"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/backend/types"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/host/disk"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/vm"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/vm/lifecycle"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/vm/store"
)

// metald is a manager over fakes.
type metald struct {
	*vm.Manager
	t       failer
	dir     string
	roots   disk.Roots
	host    *fake.Host
	store   *store.Failing
	failPut atomic.Bool // the next Put fails
	wrap    func(types.Backend) types.Backend
	others  []vm.Other
	strange vm.Strangers
	books   *books
	stop    func()
}

// failer is what *testing.T and *rapid.T have in common here.
type failer interface {
	Helper()
	Fatalf(format string, args ...any)
	Errorf(format string, args ...any)
}

func newMetald(t failer) *metald {
	t.Helper()
	dir, err := os.MkdirTemp("", "m")
	if err != nil {
		t.Fatalf("%v", err)
	}
	for name, content := range map[string]string{"kernel": "\x7fELF", "disk": "a disk"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o644); err != nil {
			t.Fatalf("%v", err)
		}
	}
	d := &metald{t: t, dir: dir, roots: disk.Roots{Assets: dir}, host: fake.NewHost(), books: newBooks(t), store: &store.Failing{Store: store.NewMem()}}
	d.host.MuteTimeout = time.Millisecond
	d.store.OnPut = func(store.Record) error {
		if d.failPut.Swap(false) {
			return errors.New("the disk is full")
		}
		return nil
	}
	d.start()
	return d
}

func (d *metald) start() {
	d.t.Helper()
	d.books.restarted()
	var backend types.Backend = fake.New(d.host)
	if d.wrap != nil {
		backend = d.wrap(backend)
	}
	d.Manager = vm.New(vm.Config{
		Backend: backend, Others: d.others, Strangers: d.strange, Store: d.store, Metering: d.books, StateDir: d.dir, Roots: d.roots,
		MaxVMs: 1000, ConsoleBytes: 4096, Log: slog.New(slog.NewTextHandler(io.Discard, nil)),
	})
	if err := d.Restore(context.Background()); err != nil {
		d.t.Fatalf("restore: %v", err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- d.Run(ctx) }()
	d.stop = sync.OnceFunc(func() { cancel(); <-done })
}

// close deletes every VM, and fails the test for what is left of any.
func (d *metald) close() {
	d.t.Helper()
	for _, info := range d.List(vm.ListQuery{Limit: 1000}).VMs {
		if err := d.Delete(context.Background(), info.ID, true); err != nil {
			d.t.Errorf("delete %s: %v", info.ID, err)
		}
	}
	d.stop()
	for _, id := range d.host.Alive() {
		d.t.Errorf("the VMM of %s is left", id)
	}
	for _, sub := range []string{"vms", "run"} {
		entries, err := os.ReadDir(filepath.Join(d.dir, sub))
		if err != nil || len(entries) > 0 {
			d.t.Errorf("left in %s: %v, %v", sub, entries, err)
		}
	}
	if records, err := d.store.All(); err != nil || len(records) > 0 {
		d.t.Errorf("records are left: %v, %v", records, err)
	}
	d.books.close()
	for _, fault := range d.host.Faults() {
		d.t.Errorf("%s", fault)
	}
	if err := os.RemoveAll(d.dir); err != nil {
		d.t.Errorf("%v", err)
	}
}

func (d *metald) spec() types.Spec {
	return types.Spec{
		CPU: types.CPU{Count: 1}, Memory: types.Memory{SizeBytes: 64 << 20},
		Boot:    types.Boot{KernelPath: filepath.Join(d.dir, "kernel")},
		Disks:   []types.Disk{{ID: "root", Path: filepath.Join(d.dir, "disk"), Root: true}},
		Console: types.Console{Enabled: true},
	}
}

// model is what the manager is held to: the state machine and nothing else.
type model struct {
	*metald
	vms map[types.VMID]*modelVM
}

type modelVM struct {
	state       lifecycle.State
	incarnation uint64
}

// verbs is what can be asked for and the event that it stands for.
var verbs = map[string]struct {
	event lifecycle.Event
	call  func(*metald, types.VMID) error
}{
	"boot":           {lifecycle.Boot, func(d *metald, id types.VMID) error { _, err := d.Boot(context.Background(), id); return err }},
	"pause":          {lifecycle.Pause, func(d *metald, id types.VMID) error { _, err := d.Pause(context.Background(), id); return err }},
	"resume":         {lifecycle.Resume, func(d *metald, id types.VMID) error { _, err := d.Resume(context.Background(), id); return err }},
	"shutdown":       {lifecycle.AskShutdown, shutdown(false)},
	"force shutdown": {lifecycle.ForceShutdown, shutdown(true)},
	"reboot":         {lifecycle.AskReboot, reboot(false)},
	"force reboot":   {lifecycle.ForceReboot, reboot(true)},
	"delete":         {lifecycle.Delete, func(d *metald, id types.VMID) error { return d.Delete(context.Background(), id, false) }},
	"force delete":   {lifecycle.ForceDelete, func(d *metald, id types.VMID) error { return d.Delete(context.Background(), id, true) }},
}

func shutdown(force bool) func(*metald, types.VMID) error {
	return func(d *metald, id types.VMID) error {
		_, err := d.Shutdown(context.Background(), id, force, 10*time.Second)
		return err
	}
}

func reboot(force bool) func(*metald, types.VMID) error {
	return func(d *metald, id types.VMID) error {
		_, err := d.Reboot(context.Background(), id, force, 10*time.Second)
		return err
	}
}

// expect is what a VM is after an event that succeeded.
func (v *modelVM) expect(event lifecycle.Event) (lifecycle.State, uint64, bool) {
	next, err := lifecycle.Next(v.state, event)
	incarnation := v.incarnation
	switch {
	case err != nil:
		return v.state, v.incarnation, false
	case event == lifecycle.AskShutdown:
		next = lifecycle.Shutdown // these guests do as they are asked
	case event == lifecycle.AskReboot, event == lifecycle.ForceReboot, event == lifecycle.Boot && v.state == lifecycle.Shutdown:
		incarnation++
	}
	return next, incarnation, true
}

func (m *model) verb(t *rapid.T, name string, id types.VMID) {
	v := m.vms[id]
	verb := verbs[name]
	err := verb.call(m.metald, id)
	if v == nil {
		wantKind(t, err, types.KindNotFound)
		return
	}
	next, incarnation, legal := v.expect(verb.event)
	if !legal {
		wantKind(t, err, types.KindPrecondition)
		return
	}
	if err != nil {
		t.Fatalf("%s of %s, which is %s: %v", name, id, v.state, err)
	}
	if v.state, v.incarnation = next, incarnation; next == lifecycle.Gone {
		delete(m.vms, id)
	}
}

func wantKind(t *rapid.T, err error, kind types.Kind) {
	t.Helper()
	if err == nil || types.KindOf(err) != kind {
		t.Fatalf("error of kind %d: %v; want kind %d", types.KindOf(err), err, kind)
	}
}

func (m *model) create(t *rapid.T, id types.VMID) {
	info, err := m.Create(context.Background(), id, m.spec())
	if err != nil {
		t.Fatalf("create %s: %v", id, err)
	}
	if m.vms[id] == nil {
		m.vms[id] = &modelVM{state: lifecycle.Created, incarnation: 1}
	}
	if info.State != m.vms[id].state {
		t.Fatalf("create of %s returned %s, it is %s", id, info.State, m.vms[id].state)
	}
}

// ended waits until the end of a VMM, which had one, is seen.
func (m *model) ended(t *rapid.T, id types.VMID, reason string) {
	v := m.vms[id]
	if v == nil || v.state == lifecycle.Shutdown {
		return
	}
	v.state = lifecycle.Shutdown
	info := m.reaches(t, id, lifecycle.Shutdown)
	if info.Exit == nil || info.Exit.Reason != reason {
		t.Fatalf("%s ended with %+v, want %s", id, info.Exit, reason)
	}
}

func (m *model) reaches(t *rapid.T, id types.VMID, want lifecycle.State) vm.Info {
	t.Helper()
	tick := time.NewTicker(200 * time.Microsecond)
	defer tick.Stop()
	for deadline := time.Now().Add(10 * time.Second); ; <-tick.C {
		info, err := m.Get(id)
		if err == nil && info.State == want {
			return info
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s does not become %s: it is %+v, %v", id, want, info, err)
		}
	}
}

// withFailingStore does something while the next record cannot be saved. What it comes to is the manager's choice,
// as long as it is one that its own restart agrees with.
func (m *model) withFailingStore(t *rapid.T, id types.VMID, name string) {
	m.failPut.Store(true)
	before := m.vms[id]
	var err error
	if name == "create" {
		_, err = m.Create(context.Background(), id, m.spec())
	} else {
		err = verbs[name].call(m.metald, id)
	}
	m.restart()
	m.failPut.Store(false)
	info, getErr := m.Get(id)
	switch {
	case getErr != nil && err == nil && name != "delete" && name != "force delete":
		t.Fatalf("%s of %s succeeded, and it is not there: %v", name, id, getErr)
	case getErr != nil:
		if before != nil && name != "delete" && name != "force delete" {
			t.Fatalf("%s of %s lost it", name, id)
		}
		delete(m.vms, id)
	default:
		m.vms[id] = &modelVM{state: info.State, incarnation: info.Incarnation}
	}
	if before == nil || name == "create" {
		return
	}
	if now := m.vms[id]; now != nil && err == nil {
		if next, incarnation, legal := before.expect(verbs[name].event); !legal || now.state != next || now.incarnation != incarnation {
			t.Fatalf("%s of %s, which was %+v, succeeded, and it is %+v", name, id, before, now)
		}
	}
}

// check compares what Get and List say with the model, and the processes with both.
func (m *model) check(t *rapid.T) {
	listed := map[types.VMID]vm.Info{}
	page := m.List(vm.ListQuery{Limit: 100})
	for _, info := range page.VMs {
		listed[info.ID] = info
	}
	if len(listed) != len(m.vms) || page.Total != len(m.vms) {
		t.Fatalf("listed %d of %d VMs, want %d", len(listed), page.Total, len(m.vms))
	}
	for _, state := range []lifecycle.State{lifecycle.Created, lifecycle.Running, lifecycle.Paused, lifecycle.Shutdown} {
		page := m.List(vm.ListQuery{Limit: 100, States: []lifecycle.State{state}})
		n := 0
		for _, v := range m.vms {
			if v.state == state {
				n++
			}
		}
		if page.Total != n || len(page.VMs) != n {
			t.Fatalf("%d VMs listed and %d counted as %s, want %d", len(page.VMs), page.Total, state, n)
		}
	}
	alive := 0
	for id, v := range m.vms {
		got, err := m.Get(id)
		if err != nil || got.State != v.state || got.Incarnation < v.incarnation || listed[id].State != v.state {
			t.Fatalf("%s is %+v in the list %s, %v; want %+v", id, got, listed[id].State, err, v)
		}
		if hasVMM := v.state != lifecycle.Shutdown; hasVMM != (got.PID != 0) || hasVMM != (got.Exit == nil) {
			t.Fatalf("%s is %+v", id, got)
		}
		if v.state != lifecycle.Shutdown {
			alive++
		}
	}
	if n := len(m.host.Alive()); n != alive {
		t.Fatalf("%d VMMs are alive, want %d", n, alive)
	}
	for _, fault := range m.host.Faults() {
		t.Fatalf("%s", fault)
	}
}

func TestModel(t *testing.T) {
	defer goleak.VerifyNone(t)
	rapid.Check(t, func(t *rapid.T) {
		m := &model{metald: newMetald(t), vms: map[types.VMID]*modelVM{}}
		defer func() { m.stop() }()
		ids := rapid.SampledFrom([]types.VMID{"a", "b", "c"})
		anyVM := func(t *rapid.T) types.VMID { return ids.Draw(t, "vm") }
		actions := map[string]func(*rapid.T){
			"":       m.check,
			"create": func(t *rapid.T) { m.create(t, anyVM(t)) },
			"create another": func(t *rapid.T) {
				id, other := anyVM(t), m.spec()
				if other.Memory.SizeBytes *= 2; m.vms[id] == nil {
					t.Skip("there is none")
				}
				_, err := m.Create(context.Background(), id, other)
				wantKind(t, err, types.KindExists)
			},
			"kill the VMM": func(t *rapid.T) {
				id := anyVM(t)
				m.host.Kill(id)
				m.ended(t, id, types.ReasonKilled)
			},
			"end the guest": func(t *rapid.T) {
				id := anyVM(t)
				m.host.EndGuest(id, types.ReasonGuestPanic)
				m.ended(t, id, types.ReasonGuestPanic)
			},
			"restart metald": func(*rapid.T) { m.restart() },
			"kill the VMM while metald is away": func(t *rapid.T) {
				id := anyVM(t)
				m.stop()
				m.host.Kill(id)
				m.start()
				m.ended(t, id, types.ReasonUnobserved)
			},
			"fail to save": func(t *rapid.T) {
				names := []string{"create", "boot", "pause", "resume", "shutdown", "force shutdown", "reboot", "force reboot", "delete", "force delete"}
				m.withFailingStore(t, anyVM(t), rapid.SampledFrom(names).Draw(t, "verb"))
			},
		}
		for name := range verbs {
			actions[name] = func(t *rapid.T) { m.verb(t, name, anyVM(t)) }
		}
		t.Repeat(actions)
		m.close()
	})
}

// TestLifecycleCycles makes many VMs at once, and lists them all the while.
func TestLifecycleCycles(t *testing.T) {
	defer goleak.VerifyNone(t)
	d := newMetald(t)
	const workers, cycles = 20, 10
	var work sync.WaitGroup
	for w := range workers {
		work.Go(func() {
			for range cycles {
				cycle(t, d, types.VMID(fmt.Sprintf("vm%d", w)))
			}
		})
	}
	done := make(chan struct{})
	go func() { work.Wait(); close(done) }()
	for running := true; running; {
		select {
		case <-done:
			running = false
		default:
		}
		for _, info := range d.List(vm.ListQuery{Limit: 1000}).VMs {
			if info.State < lifecycle.Created || info.State > lifecycle.Shutdown {
				t.Errorf("%s is listed as %s", info.ID, info.State)
			}
		}
	}
	d.close()
}

func cycle(t *testing.T, d *metald, id types.VMID) {
	created, err := d.Create(t.Context(), id, d.spec())
	if err != nil || created.State != lifecycle.Created {
		t.Errorf("created %+v, %v", created, err)
	}
	booted, err := d.Boot(t.Context(), id)
	if err != nil || booted.State != lifecycle.Running {
		t.Errorf("booted %+v, %v", booted, err)
	}
	if err := d.Delete(t.Context(), id, true); err != nil {
		t.Error(err)
	}
	if _, err := d.Get(id); types.KindOf(err) != types.KindNotFound {
		t.Errorf("%s was deleted: %v", id, err)
	}
}
