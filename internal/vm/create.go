package vm

import (
	"context"
	"reflect"

	"github.com/unkeyed/unkey/go/deploy/metald/internal/backend/types"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/console"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/vm/lifecycle"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/vm/store"
)

// Create makes a VM and its VMM, which does not run yet. An empty id gets a random one. The same id with the
// same spec returns the VM as it is; with another spec KindExists. A caller who gives up leaves nothing behind.
func (m *Manager) Create(ctx context.Context, id types.VMID, spec types.Spec) (Info, error) {
	if id == "" {
		id = randomID()
	}
	for {
		e, mine, err := m.claimID(id)
		if err != nil {
			return Info{}, err
		}
		if mine {
			return m.create(ctx, e, spec)
		}
		info, again, err := e.createdBefore(ctx, spec)
		if !again {
			return info, err
		}
	}
}

// claimID makes a new entry for id, or returns the one that has it.
func (m *Manager) claimID(id types.VMID) (e *entry, mine bool, err error) {
	m.mu.Lock()
	e = m.byID[id]
	m.mu.Unlock()
	if e != nil {
		return e, false, nil
	}
	log, err := console.Open(m.vmDir(id)+"/console", m.cfg.ConsoleBytes)
	if err != nil {
		return nil, false, types.Errorf(types.KindInternal, "open the console log of VM %s: %w", id, err)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if e := m.byID[id]; e != nil {
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
		ID: id, Seq: m.seq, Slot: m.slots.take(), Phase: store.Creating, Backend: m.cfg.Backend.Name(),
		CreatedAt: now, ModifiedAt: now,
	}, log)
	m.byID[id] = e
	return e, true, nil
}

func (m *Manager) newEntry(rec store.Record, log *console.Log) *entry {
	return &entry{
		m: m, id: rec.ID, rec: rec, console: log, log: m.cfg.Log,
		born: make(chan struct{}), gone: make(chan struct{}),
	}
}

// createdBefore answers a create for an id that is taken. again says that it no longer is.
func (e *entry) createdBefore(ctx context.Context, spec types.Spec) (info Info, again bool, err error) {
	select {
	case <-e.born:
	case <-ctx.Done():
		return Info{}, false, canceled(ctx)
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
	if !reflect.DeepEqual(info.Spec, spec) {
		return Info{}, false, types.Errorf(types.KindExists, "VM %s exists with another config", e.id)
	}
	return info, false, nil
}

// create has the runner make e's VM. It waits for the end even if ctx ends first: the creation then stops early
// and undoes itself, and when the caller has its answer nothing is left.
func (m *Manager) create(ctx context.Context, e *entry, spec types.Spec) (Info, error) {
	answer := make(chan error, 1)
	err := e.enqueue(func() {
		opCtx, cancel := context.WithTimeout(m.opCtx, launchTimeout)
		defer cancel()
		defer context.AfterFunc(ctx, cancel)()
		e.rec.Spec = spec
		answer <- e.create(opCtx)
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

// create is the runner's part. Each step that leaves something adds to the undo that runs if a later one fails.
func (e *entry) create(ctx context.Context) (err error) {
	var undo []func() error
	defer func() {
		if err != nil {
			for i := len(undo) - 1; i >= 0; i-- {
				if uerr := undo[i](); uerr != nil {
					e.log.Error("a failed create could not be undone; the next start will", "vm", e.id, "error", uerr)
				}
			}
			e.forget()
		}
		close(e.born)
	}()
	m := e.m
	f, err := m.resolve(e.id, e.rec.Spec)
	if err != nil {
		return err
	}
	if err := m.claimVolumes(e.id, f.volumes); err != nil {
		return err
	}
	undo = append(undo, func() error { m.releaseVolumes(e.id, f.volumes); return nil })
	e.rec.Volumes = f.volumes
	if err := e.save(); err != nil {
		return errNotSaved
	}
	undo = append(undo, func() error { return m.cfg.Store.Delete(e.id) })
	undo = append(undo, func() error { return m.removeDir(e.id) })
	if err := m.makeDir(ctx, e.id, m.uid(e.rec.Slot), f); err != nil {
		return err
	}
	machine, err := e.launch(ctx, f)
	if err != nil {
		return err
	}
	e.rec.Phase = store.Live
	e.rec.State = lifecycle.Created
	if err := e.save(); err != nil {
		e.discard(machine)
		return errNotSaved
	}
	if ctx.Err() != nil {
		e.discard(machine)
		return canceled(ctx)
	}
	e.attach(machine)
	e.publish()
	m.index.add(e)
	return nil
}

// forget takes an entry of which nothing is left out of the manager.
func (e *entry) forget() {
	if err := e.console.Close(); err != nil {
		e.log.Warn("close a console log", "vm", e.id, "error", err)
	}
	e.m.mu.Lock()
	delete(e.m.byID, e.id)
	e.m.slots.give(e.rec.Slot)
	e.m.mu.Unlock()
	close(e.gone)
}

var errNotSaved = types.Errorf(types.KindInternal, "the VM's record could not be saved; metald's log says why")
