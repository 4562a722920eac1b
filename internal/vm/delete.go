package vm

import (
	"context"
	"errors"

	"golang.org/x/sync/errgroup"

	"github.com/unkeyed/unkey/go/deploy/metald/internal/backend/types"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/vm/lifecycle"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/vm/store"
)

// Delete removes a VM and everything that it had on this host. Once it has begun it is finished, by the next
// metald if need be.
func (m *Manager) Delete(ctx context.Context, id types.VMID, force bool) error {
	event, do := lifecycle.Delete, m.verb
	if force {
		event, do = lifecycle.ForceDelete, m.force
	}
	_, err := do(ctx, id, func(opCtx context.Context, e *entry) (after, error) {
		if _, err := e.next(event); err != nil {
			return nil, err
		}
		return e.delete(opCtx)
	})
	return err
}

// delete saves the intent while the VMM ends, and removes the VM's files when the intent is saved: a crash before
// that leaves a VM that is shut down, a crash after it one whose deletion goes on. A VMM that still lives then may
// go on writing to a disk that has no name any more.
func (e *entry) delete(ctx context.Context) (after, error) {
	e.dropReboot("the VM was deleted")
	doomed := e.rec
	doomed.Phase = store.Deleting
	saved := false
	var files errgroup.Group
	files.Go(func() (err error) {
		defer e.contain(&err) // here a panic would be the daemon's
		if err := e.m.cfg.Store.Put(doomed); err != nil {
			e.log.Error("a VM's record could not be saved", "vm", e.id, "error", err)
			return errNotSaved
		}
		saved = true
		e.closeConsole() // or it could make its directory anew
		if err := e.m.removeDir(e.id); err != nil {
			return types.Errorf(types.KindInternal, "remove the files of VM %s: %w", e.id, err)
		}
		return nil
	})
	endErr := e.endForDelete(ctx)
	filesErr := files.Wait()
	if !saved {
		e.keep()
		return nil, filesErr
	}
	e.rec.Phase = store.Deleting
	if err := errors.Join(endErr, filesErr); err != nil {
		if !e.stuck.Swap(true) {
			e.later(retryAfter, e.gone, e.deleteAgain)
		}
		return nil, err
	}
	e.m.releaseVolumes(e.id, e.rec.Volumes)
	e.hidden.Store(true)
	e.m.index.remove(e)
	return func() {
		if err := e.m.cfg.Store.Delete(e.id); err != nil {
			e.log.Error("the record of a deleted VM could not be removed; the next start will", "vm", e.id, "error", err)
		}
		e.forget()
	}, nil
}

// deleteAgain goes on with a deletion that could not be finished: its caller has been told, and need not come back.
func (e *entry) deleteAgain() {
	if e.hidden.Load() {
		return
	}
	ctx, cancel := context.WithTimeout(e.m.opCtx, launchTimeout)
	defer cancel()
	then, err := e.delete(ctx)
	if err != nil {
		e.log.Debug("a VM can still not be deleted", "vm", e.id, "error", err)
		e.later(retryAfter, e.gone, e.deleteAgain)
		return
	}
	then()
}

func (e *entry) endForDelete(ctx context.Context) error {
	l := e.live.Load()
	if l == nil {
		if e.rec.Handle == nil {
			return nil
		}
		return e.reap(ctx)
	}
	return e.finish(ctx, l, &types.Exit{Reason: types.ReasonForced, Code: -1})
}
