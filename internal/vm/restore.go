package vm

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/unkeyed/unkey/go/deploy/metald/internal/backend/types"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/console"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/host/boot"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/host/dir"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/host/disk"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/host/jail"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/vm/lifecycle"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/vm/store"
)

// adoptions bounds how many VMMs are re-adopted at once.
const adoptions = 64

// Restore takes over what earlier metalds left: it adopts the VMMs that are alive, notes the end of those that
// are not, finishes what was begun, and removes what belongs to no VM. Call it once, before the API serves.
func (m *Manager) Restore(ctx context.Context) error {
	for _, path := range m.rooms() {
		if err := os.MkdirAll(path, 0o700); err != nil {
			return err
		}
		if err := dir.SweepTrash(path); err != nil {
			m.cfg.Log.Error("what was being removed could not be; the next start will", "path", path, "error", err)
		}
	}
	if err := disk.SyncDir(m.cfg.StateDir); err != nil {
		return err
	}
	records, err := m.cfg.Store.All()
	if err != nil {
		return err
	}
	for i := range records {
		records[i].Backend = m.backendOf(records[i])
		records[i].Tenant = cmp.Or(records[i].Tenant, Unattributed)
	}
	if m.seq, err = m.cfg.Store.LastSeq(); err != nil {
		return err
	}
	m.reserve(records)
	for _, b := range m.fleet {
		if err := b.Sweep(ctx, handles(records)); err != nil {
			m.cfg.Log.Error("what belongs to no VM could not be removed; the next start will", "backend", b.Name(), "error", err)
		}
	}
	if err := m.sweep(ctx, records); err != nil {
		return err
	}
	var all errgroup.Group
	all.SetLimit(adoptions)
	for _, rec := range records {
		all.Go(func() error { return m.restore(ctx, rec) })
	}
	return all.Wait()
}

// reserve takes what the records hold before anybody can ask for it.
func (m *Manager) reserve(records []store.Record) {
	used := map[uint32]int{}
	// What a deletion that was cut short still holds may have gone to another VM since.
	slices.SortStableFunc(records, func(a, b store.Record) int { return cmp.Compare(rank(a), rank(b)) })
	for _, rec := range records {
		used[rec.Slot]++
		m.seq = max(m.seq, rec.Seq)
		for i := range rec.Volumes {
			v := &rec.Volumes[i]
			v.Device = m.deviceNow(rec.Spec, *v)
			if err := m.claims.take(rec.ID, *v); err != nil {
				m.cfg.Log.Error("two records hold one volume", "vm", rec.ID, "error", err)
			}
		}
	}
	m.slots.reserve(used)
}

// backendOf is the backend of a VM: that of its VMM where the record does not say, and this manager's own where there is none.
func (m *Manager) backendOf(rec store.Record) string {
	if rec.Backend == "" && rec.Handle != nil {
		return rec.Handle.Backend
	}
	return cmp.Or(rec.Backend, m.fleet[0].Name())
}

func rank(rec store.Record) int {
	if rec.Phase == store.Live {
		return 0
	}
	return 1
}

// deviceNow returns the device number that a volume's filesystem has now: numbers may change when the host
// restarts. The file is the same if its inode and time of birth are.
func (m *Manager) deviceNow(spec types.Spec, v store.Volume) uint64 {
	if v.Born == 0 || v.Disk >= len(spec.Disks) {
		return v.Device
	}
	f, err := m.cfg.Roots.Resolve(spec.Disks[v.Disk].Path)
	if err != nil || f.Inode != v.Inode || f.Born != v.Born {
		return v.Device
	}
	return f.Device
}

// found is what Restore finds of a record's VMM.
type found uint8

const (
	foundNone found = iota // the record has no handle
	foundGone
	foundMute // alive, and does not answer
	foundCreated
	foundRunning
	foundPaused
	foundEnded // the VMM is alive, its guest has ended
)

// action is what Restore does about it.
type action uint8

const (
	actForget action = iota // undo the creation, or finish the deletion
	actKeep                 // the VM is as the record says
	actAdopt                // the VM is as its VMM says
	actExit                 // its VMM ended while nobody watched
	actReap                 // end the VMM; the VM is shut down
	actRetry                // ask again later
)

// classify decides what becomes of a record after a restart. A creation that was not finished is rolled back
// (nothing ran, and the caller will try again), a deletion is rolled forward, and what a VMM says of itself is
// believed over what was recorded.
func classify(rec store.Record, f found) action {
	if rec.Phase != store.Live {
		return actForget
	}
	switch f {
	case foundGone:
		return actExit
	case foundMute:
		return actRetry
	case foundRunning, foundPaused:
		return actAdopt
	case foundCreated:
		if rec.State == lifecycle.Created {
			return actAdopt
		}
		return actReap // the VMM of a boot that was cut short before it began
	case foundEnded:
		return actReap
	}
	if rec.State == lifecycle.Shutdown {
		return actKeep
	}
	return actExit // a VM without a VMM is shut down, whatever its record says
}

// restore takes over one VM. What concerns one VM only is logged, and is never the error, which stops the start.
func (m *Manager) restore(ctx context.Context, rec store.Record) error {
	e := m.newEntry(rec)
	if err := e.openConsole(); err != nil {
		e.log.Error("what a VM's console said so far cannot be read; its log begins anew", "vm", e.id, "error", err)
		e.console = console.Anew(e.consoleDir(), e.m.cfg.ConsoleBytes)
	}
	close(e.born)
	m.mu.Lock()
	m.byID[e.id] = e
	m.mu.Unlock()
	done := make(chan struct{})
	err := e.enqueue(func() {
		defer close(done)
		if rec.Phase != store.Live {
			e.sweepOut()
			return
		}
		e.takeOver(ctx)
		m.index.add(e)
	})
	if err == nil {
		<-done
	}
	return err
}

// takeOver makes the VM what its VMM is found to be.
func (e *entry) takeOver(ctx context.Context) {
	var machine types.Machine
	f := foundNone
	if e.rec.Handle != nil {
		machine, f = e.find(ctx)
	}
	e.settle(ctx, classify(e.rec, f), machine, f)
}

// find looks for the VMM of the record.
func (e *entry) find(ctx context.Context) (types.Machine, found) {
	ctx, cancel := context.WithTimeout(ctx, lookTimeout)
	defer cancel()
	machine, err := e.m.adopt(ctx, types.AdoptRequest{Handle: *e.rec.Handle, Spec: e.rec.Spec, Console: e.console, Ended: e.observeEnd, Stopped: e.observeStop})
	if errors.Is(err, types.ErrGone) {
		return nil, foundGone
	}
	if err != nil {
		return nil, e.mute(err)
	}
	state, err := machine.State(ctx)
	switch {
	case err != nil:
		machine.Release()
		return nil, e.mute(err)
	case state == lifecycle.Created:
		return machine, foundCreated
	case state == lifecycle.Running:
		return machine, foundRunning
	case state == lifecycle.Paused:
		return machine, foundPaused
	}
	return machine, foundEnded
}

// mute reports a VMM that could not be taken over.
func (e *entry) mute(err error) found {
	if e.health == "" {
		e.log.Error("a VMM could not be taken over; metald tries again", "vm", e.id, "error", err)
	}
	e.health = fmt.Sprintf("its VMM could not be taken over: %v; metald tries again every few seconds", err)
	return foundMute
}

// settle makes the VM what was found.
func (e *entry) settle(ctx context.Context, act action, machine types.Machine, f found) {
	switch act {
	case actKeep:
		e.publish()
		e.rebootIfDue(ctx)
	case actAdopt:
		e.health = ""
		e.hold(machine)
		e.goOn(machine, seen(f))
		e.attach(machine)
		if e.rec.State == lifecycle.Shutdown {
			e.rec.RebootBy = time.Time{} // this is the incarnation that was to follow
		}
		e.adopted(seen(f))
		e.resumeReboot(ctx)
	case actExit:
		exit := e.unobserved()
		if h := e.rec.Handle; h != nil {
			if err := e.m.reap(ctx, *h, exit.Reason); err != nil {
				e.log.Error("what a VMM left could not be removed", "vm", e.id, "error", err)
			}
		}
		e.ended(exit)
		e.keep()
		e.rebootIfDue(ctx)
	case actReap:
		e.hold(machine)
		e.goOn(machine, seen(f))
		e.attach(machine)
		e.publish()
		e.observeExit(e.live.Load())
		e.rebootIfDue(ctx)
	case actRetry:
		e.publish()
		e.later(retryAfter, e.gone, e.findAgain)
	}
}

// seen is the state of a VM whose VMM was found like that.
func seen(f found) lifecycle.State {
	switch f {
	case foundCreated:
		return lifecycle.Created
	case foundRunning:
		return lifecycle.Running
	case foundPaused:
		return lifecycle.Paused
	}
	return lifecycle.Shutdown
}

// goOn has the VMM of an earlier metald be metered on. One that cannot be is alive, so that is told and tried again.
func (e *entry) goOn(machine types.Machine, state lifecycle.State) {
	if err := e.m.cfg.Metering.Adopt(machine, e.rec.Spec, e.rec.Tenant, metered(state)); err != nil {
		e.log.Error("a VM that was taken over is not metered; metald tries again", "vm", e.id, "error", err)
		e.later(retryAfter, e.gone, func() {
			if l := e.live.Load(); l != nil && l.machine == machine {
				e.goOn(machine, e.rec.State)
			}
		})
	}
}

// adopted enters the state that the VMM was seen in.
func (e *entry) adopted(state lifecycle.State) {
	changed := state != e.rec.State
	e.sees(state)
	if changed {
		e.keep()
	}
}

// findAgain tries to adopt a VMM that did not answer before.
func (e *entry) findAgain() {
	if e.live.Load() != nil || e.rec.Handle == nil || e.hidden.Load() || e.rec.Phase != store.Live {
		return
	}
	ctx, cancel := context.WithTimeout(e.m.opCtx, launchTimeout)
	defer cancel()
	e.takeOver(ctx)
}

// unobserved says why a VMM is gone that nobody saw end.
func (e *entry) unobserved() types.Exit {
	if now, err := boot.ID(); err == nil && e.rec.Handle != nil && now != e.rec.Handle.Process.BootID {
		return types.Exit{Reason: types.ReasonHostReboot, Code: -1}
	}
	return types.Exit{Reason: types.ReasonUnobserved, Detail: "it ended while metald could not watch it", Code: -1}
}

// resumeReboot goes on with a reboot that an earlier metald was asked for. Whether it came to asking the guest is
// not known, so it is asked again.
func (e *entry) resumeReboot(ctx context.Context) {
	left := e.rec.RebootBy.Sub(e.m.cfg.Now())
	if _, err := e.next(lifecycle.AskReboot); err != nil || left <= 0 {
		e.rec.RebootBy = time.Time{}
		return
	}
	e.waitReboot(make(chan error, 1), left)
	if _, err := e.ask(ctx, lifecycle.AskReboot, left); err != nil {
		e.log.Error("a guest could not be asked to power off for a reboot", "vm", e.id, "error", err)
	}
}

// rebootIfDue boots a VM whose VMM ended for a reboot while metald was away.
func (e *entry) rebootIfDue(ctx context.Context) {
	if e.rec.State == lifecycle.Shutdown && e.rec.RebootBy.After(e.m.cfg.Now()) {
		_ = e.rebootNow(ctx) // which logs why not
		e.keep()
		return
	}
	e.rec.RebootBy = time.Time{}
}

// sweepOut removes a VM whose creation failed or whose deletion was cut short, and its entry. Until that is done
// the id stays taken and the record stays: there is never a VMM that nobody knows of.
func (e *entry) sweepOut() {
	if err := e.remove(); err != nil {
		if !e.stuck.Swap(true) {
			e.log.Error("what is left of a VM could not be removed; metald tries again", "vm", e.id, "error", err)
			e.keep()
		}
		e.later(retryAfter, e.gone, e.sweepOut)
		return
	}
	e.m.releaseVolumes(e.id, e.rec.Volumes)
	e.forget()
}

// remove ends the VMM that the record names, if there is one, and removes the VM's files and then its record.
func (e *entry) remove() error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(e.m.opCtx), verbTimeout)
	defer cancel()
	if e.rec.Handle != nil {
		if err := e.m.reap(ctx, *e.rec.Handle, reasonNeverRan); err != nil {
			return err
		}
		e.rec.Handle = nil
	}
	e.closeConsole()
	if err := e.m.removeDir(e.id); err != nil {
		return err
	}
	return e.m.cfg.Store.Delete(e.id)
}

// handles returns those of the VMMs that the records know.
func handles(records []store.Record) []types.Handle {
	var all []types.Handle
	for _, rec := range records {
		if rec.Handle != nil {
			all = append(all, *rec.Handle)
		}
	}
	return all
}

// rooms are the directories that VMs' directories are in. Run directories of an earlier metald may be in the state
// directory though this one makes them elsewhere.
func (m *Manager) rooms() []string {
	rooms := []string{filepath.Join(m.cfg.StateDir, "vms"), m.besideState()}
	if m.cfg.RunDir != m.besideState() {
		rooms = append(rooms, m.cfg.RunDir)
	}
	return rooms
}

// sweep removes directories that belong to no VM, and what a backend may have mounted in them before it had committed a
// handle. It comes before anything boots, which would want one of them.
func (m *Manager) sweep(ctx context.Context, records []store.Record) error {
	owned := map[string]bool{}
	for _, rec := range records {
		owned[m.vmDir(rec.ID)] = true
		if rec.Handle != nil {
			owned[rec.Handle.RunDir] = true
			owned[filepath.Join(m.besideState(), filepath.Base(rec.Handle.RunDir))] = true // its root, if it has one there
		}
	}
	for _, parent := range m.rooms() {
		entries, err := os.ReadDir(parent)
		if err != nil {
			return err
		}
		for _, entry := range entries {
			path := filepath.Join(parent, entry.Name())
			if owned[path] || dir.IsTrash(entry.Name()) {
				continue
			}
			m.cfg.Log.Warn("removing what belongs to no VM", "path", path)
			if err := jail.Remove(ctx, path); err != nil {
				m.cfg.Log.Error("what belongs to no VM could not be removed; the next start will", "path", path, "error", err)
			}
		}
	}
	return nil
}
