package vm

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"os"
	"path/filepath"

	"github.com/unkeyed/unkey/go/deploy/metald/internal/backend/types"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/console"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/vm/lifecycle"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/vm/store"
)

// Unattributed is the tenant of a VM whose create call named none.
const Unattributed = "unattributed"

// CreateRequest is what a VM is to be. Only Spec has to be there.
type CreateRequest struct {
	Backend string     // by name; "" is the manager's own
	ID      types.VMID // "" gets a random one
	Tenant  string     // who is billed; "" is Unattributed
	Spec    types.Spec
}

// Create is CreateOn on the manager's own backend, for nobody.
func (m *Manager) Create(ctx context.Context, id types.VMID, spec types.Spec) (Info, error) {
	return m.CreateOn(ctx, CreateRequest{ID: id, Spec: spec})
}

// CreateOn makes a VM and its VMM, which does not run yet. The same id with the same spec and tenant returns the VM as
// it is; with others KindExists. A caller who gives up leaves nothing behind.
//
// A name that is none of a backend is KindInvalid, a backend that this host cannot run KindPrecondition. With the same
// spec, a VM on another backend than is asked for is KindExists; who asks for none takes it as it is. A tenant is not
// taken as it is: who is billed is never guessed.
func (m *Manager) CreateOn(ctx context.Context, req CreateRequest) (Info, error) {
	on, err := m.fleet.named(req.Backend)
	if err != nil {
		return Info{}, err
	}
	if req.ID == "" {
		req.ID = randomID()
	}
	req.Tenant = cmp.Or(req.Tenant, Unattributed)
	for {
		e, mine, err := m.claimID(req, on.Name())
		if err != nil {
			return Info{}, err
		}
		if mine {
			return m.create(ctx, e, req.Spec)
		}
		info, again, err := e.createdBefore(ctx, req)
		if !again {
			return info, err
		}
	}
}

// claimID makes a new entry for the id, or returns the one that has it.
func (m *Manager) claimID(req CreateRequest, backend string) (e *entry, mine bool, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if e := m.byID[req.ID]; e != nil {
		return e, false, nil
	}
	if m.parked {
		return nil, false, errParked
	}
	if len(m.byID) >= m.cfg.MaxVMs {
		return nil, false, types.Errorf(types.KindExhausted, "this host has its %d VMs (UNKEY_METALD_MAX_VMS); delete one first", m.cfg.MaxVMs)
	}
	m.seq++
	now := m.cfg.Now()
	e = m.newEntry(store.Record{
		ID: req.ID, Seq: m.seq, Slot: m.slots.take(), Phase: store.Creating, Backend: backend, Tenant: req.Tenant,
		CreatedAt: now, ModifiedAt: now,
	})
	m.byID[req.ID] = e
	return e, true, nil
}

func (m *Manager) newEntry(rec store.Record) *entry {
	e := &entry{
		m: m, id: rec.ID, rec: rec, log: m.cfg.Log,
		born: make(chan struct{}), gone: make(chan struct{}),
	}
	if rec.Handle != nil {
		e.left = rec.Handle.Process
	}
	return e
}

// openConsole is for the runner of an entry that has its id: the log of an earlier VM of that id is gone by then.
func (e *entry) openConsole() error {
	log, err := console.Open(e.consoleDir(), e.m.cfg.ConsoleBytes)
	if err != nil {
		return types.Errorf(types.KindInternal, "open the console log of VM %s: %w", e.id, err)
	}
	e.console = log
	return nil
}

// consoleDir is the VM's own directory, as another one for each VM costs more than all that is logged; or the one that an
// earlier metald made in it.
func (e *entry) consoleDir() string {
	earlier := filepath.Join(e.m.vmDir(e.id), "console")
	if _, err := os.Lstat(earlier); err == nil {
		return earlier
	}
	return e.m.vmDir(e.id)
}

// createdBefore answers a create for an id that is taken. again says that it no longer is.
func (e *entry) createdBefore(ctx context.Context, req CreateRequest) (info Info, again bool, err error) {
	select {
	case <-e.born:
	case <-ctx.Done():
		return Info{}, false, canceled(ctx)
	}
	if e.stuck.Load() && !e.hidden.Load() { // hidden: it could be in the end, and is gone in a moment
		return Info{}, false, types.Errorf(types.KindUnavailable,
			"what an earlier VM %s left cannot be removed; metald tries again every few seconds, and its log says why", e.id)
	}
	if e.snapshot.Load() == nil || e.hidden.Load() {
		select {
		case <-e.gone:
			return Info{}, true, nil
		case <-ctx.Done():
			return Info{}, false, canceled(ctx)
		}
	}
	info = *e.snapshot.Load()
	if !sameSpec(info.Spec, req.Spec) {
		return Info{}, false, types.Errorf(types.KindExists, "VM %s exists with another config", e.id)
	}
	if req.Tenant != info.Tenant {
		return Info{}, false, types.Errorf(types.KindExists, "VM %s exists for another tenant", e.id)
	}
	if req.Backend != "" && req.Backend != info.Backend {
		return Info{}, false, types.Errorf(types.KindExists, "VM %s exists on the backend %s", e.id, info.Backend)
	}
	return info, false, nil
}

// sameSpec compares as records do: no map and an empty one are the same.
func sameSpec(a, b types.Spec) bool {
	left, err := json.Marshal(a)
	if err != nil {
		return false
	}
	right, err := json.Marshal(b)
	return err == nil && bytes.Equal(left, right)
}

// create has the runner make e's VM. It waits for the end even if ctx ends first: the creation then stops early
// and undoes itself, and when the caller has its answer nothing is left.
func (m *Manager) create(ctx context.Context, e *entry, spec types.Spec) (Info, error) {
	answer := make(chan error, 1)
	err := e.enqueue(func() {
		opCtx, cancel := context.WithTimeout(ctx, launchTimeout)
		defer cancel()
		defer context.AfterFunc(m.opCtx, cancel)()
		e.rec.Spec = spec
		_, err := e.guard(opCtx, func(ctx context.Context) (after, error) { return nil, e.create(ctx) })
		answer <- err
	})
	if err != nil {
		e.forget()
		close(e.born)
		return Info{}, err
	}
	if err := <-answer; err != nil {
		if ctx.Err() != nil {
			return Info{}, canceled(ctx)
		}
		return Info{}, err
	}
	return *e.snapshot.Load(), nil
}

// create is the runner's part. After an error nothing is left, or the id stays taken until nothing is.
func (e *entry) create(ctx context.Context) error {
	defer close(e.born)
	undo := e.undo // also after a fault of ours, or the id would be lost
	defer func() { undo() }()
	f, err := e.prepare(ctx)
	if err != nil {
		undo = e.forget
		return err
	}
	machine, err := e.make(ctx, f)
	if err != nil {
		return err
	}
	undo = func() {}
	e.attach(machine)
	e.publish()
	e.m.index.add(e)
	return nil
}

// undo removes what there is of a VM whose creation failed.
func (e *entry) undo() {
	e.rec.Phase = store.Creating
	e.sweepOut()
}

// prepare is what leaves nothing on this host.
func (e *entry) prepare(ctx context.Context) (files, error) {
	b, err := e.backend()
	if err == nil {
		err = b.usable(ctx, "backend")
	}
	if err != nil {
		return files{}, err
	}
	if err := e.openConsole(); err != nil {
		return files{}, err
	}
	f, err := e.m.resolve(e.id, e.rec.Spec)
	if err != nil {
		return files{}, err
	}
	if err := e.m.claimVolumes(e.id, f.volumes); err != nil {
		return files{}, err
	}
	e.rec.Volumes = f.volumes
	return f, nil
}

// make makes everything of the VM. After an error its record says what may be left.
func (e *entry) make(ctx context.Context, f files) (types.Machine, error) {
	if err := e.save(); err != nil {
		return nil, errNotSaved
	}
	b, err := e.backend()
	if err != nil {
		return nil, err
	}
	uid, gid := b.owner(e.rec.Slot)
	if err := e.m.makeDir(ctx, e.id, uid, gid, f); err != nil {
		return nil, err
	}
	machine, err := e.launch(ctx, f)
	if err != nil {
		return nil, err
	}
	e.rec.Phase, e.rec.State = store.Live, lifecycle.Created
	if err = e.save(); err != nil {
		err = errNotSaved
	} else if ctx.Err() != nil {
		err = canceled(ctx)
	}
	if err != nil {
		e.discard(machine)
		return nil, err
	}
	return machine, nil
}

// forget takes an entry of which nothing is left out of the manager.
func (e *entry) forget() {
	e.closeConsole()
	e.m.mu.Lock()
	delete(e.m.byID, e.id)
	e.m.slots.give(e.rec.Slot)
	e.m.mu.Unlock()
	close(e.gone)
}

var errNotSaved = types.Errorf(types.KindInternal, "the VM's record could not be saved; metald's log says why")
