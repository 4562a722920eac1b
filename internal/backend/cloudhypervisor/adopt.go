package cloudhypervisor

import (
	"context"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"syscall"
	"time"

	"github.com/unkeyed/unkey/go/deploy/metald/internal/backend/types"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/console"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/host/jail"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/vmmprocess"
)

// listen reads what Cloud Hypervisor says when something is wrong, its events, and the guest's serial port.
func (m *machine) listen(drainer *console.Drainer) error {
	pipe, err := vmmprocess.OpenStderr(filepath.Join(m.handle.RunDir, stderrName))
	if err != nil {
		return err
	}
	if err := m.words.Listen(pipe, drainer); err != nil {
		return err
	}
	if m.events, err = m.drainPipe(drainer, eventsName, newEventStream(m.event)); err != nil || !m.spec.Console.Enabled {
		return err
	}
	m.console, err = m.drainPipe(drainer, consoleName, &m.watch)
	return err
}

// drainPipe has a FIFO of the run directory read, which has room for what comes while no metald is there.
func (m *machine) drainPipe(drainer *console.Drainer, name string, to io.Writer) (*console.Source, error) {
	pipe, err := vmmprocess.OpenStderr(filepath.Join(m.handle.RunDir, name))
	if err != nil {
		return nil, err
	}
	if _, err := jail.SetPipeSize(pipe); err != nil {
		pipe.Close()
		return nil, err
	}
	return drainer.Add(pipe, to)
}

// greet waits until Cloud Hypervisor serves its API, which is a moment after its socket is there, and learns its version.
func (m *machine) greet(ctx context.Context) error {
	for wait := 100 * time.Microsecond; ; wait = min(2*wait, 10*time.Millisecond) {
		p, err := m.api.ping(ctx)
		if err == nil {
			if m.version, err = parseVersion(p.Version); err == nil {
				m.handle.VMMVersion = m.version.String()
				err = checkVersion(m.version)
			}
			return err
		}
		if !errors.Is(err, syscall.ECONNREFUSED) || ctx.Err() != nil {
			return err
		}
		timer := time.NewTimer(wait)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return err
		}
	}
}

// abandon kills a Cloud Hypervisor that did not come up, and says why it did not.
func (m *machine) abandon(ctx context.Context, err error) error {
	refused := types.KindOf(err) != types.KindInternal && types.KindOf(err) != types.KindUnavailable
	died := ctx.Err() == nil && !refused && (m.died() || !errors.Is(err, errMute) && m.diesWithin(ctx, drainTimeout))
	killCtx, cancel := context.WithTimeout(context.WithoutCancel(ctx), killTimeout)
	defer cancel()
	killErr := m.process.Kill(killCtx)
	switch {
	case ctx.Err() != nil:
		err = types.Errorf(types.KindCanceled, "create VM %s: %w", m.handle.VM, err)
	case refused:
	case died:
		words := m.words.Text()
		if words == "" {
			words = "it said nothing"
		}
		err = types.Errorf(types.KindUnavailable, "Cloud Hypervisor ended before it could be talked to: %s", words)
	default:
		err = types.Errorf(types.KindUnavailable, "create VM %s: %w", m.handle.VM, err)
	}
	m.letGo()
	return errors.Join(err, killErr)
}

// Adopt takes over a Cloud Hypervisor that an earlier metald started: the process is the one of the handle, and it is the
// one that listens on the sockets in its root. If its guest restarted meanwhile, an event waits that says so, and it ends
// right after.
func (b *Backend) Adopt(ctx context.Context, req types.AdoptRequest) (types.Machine, error) {
	p, err := checkHandle(req.Handle)
	if err != nil {
		return nil, err
	}
	at := home{cage: b.cage, runDir: req.Handle.RunDir, private: p}
	m := newMachine(req.Handle, req.Spec, at, req.Console, req.Ended, req.Stopped)
	m.log = b.cfg.Log.With("vm", req.Handle.VM)
	if m.process, err = b.cfg.Supervisor.Adopt(req.Handle.Process); err != nil {
		m.letGo()
		return nil, fmt.Errorf("adopt Cloud Hypervisor of VM %s: %w", req.Handle.VM, err)
	}
	m.compare()
	if err := m.reattach(ctx); err != nil {
		return nil, m.refuse(ctx, err)
	}
	if err := m.listen(b.cfg.Drainer); err != nil {
		m.log.Warn("what Cloud Hypervisor says of its guest and its end will not be known", "error", err)
	}
	m.begin()
	return m, nil
}

// reattach talks to a Cloud Hypervisor that runs already.
func (m *machine) reattach(ctx context.Context) (err error) {
	if m.root, err = jail.Open(m.home.root()); err != nil {
		return err
	}
	m.api = newClient(dial(m.root, m.handle.Process.PID))
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer m.onExit(cancel)()
	if err := m.greet(ctx); err != nil {
		return err
	}
	info, err := m.api.info(ctx)
	if err == nil {
		m.observed(states[info.State])
	}
	return err
}

// refuse leaves a Cloud Hypervisor that could not be adopted as it is, and says whether it may be tried again.
func (m *machine) refuse(ctx context.Context, err error) error {
	gone := m.died() || ctx.Err() == nil && !errors.Is(err, errMute) && m.diesWithin(ctx, drainTimeout)
	m.process.Release()
	m.letGo()
	if gone {
		return fmt.Errorf("adopt Cloud Hypervisor of VM %s: %w: it ended meanwhile", m.handle.VM, types.ErrGone)
	}
	return m.unavailable(ctx, fmt.Errorf("adopt Cloud Hypervisor: %w", err))
}
