package firecracker

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"syscall"
	"time"

	"github.com/unkeyed/unkey/go/deploy/metald/internal/backend/firecracker/metrics"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/backend/firecracker/metrics/fifo"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/backend/types"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/console"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/host/jail"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/vm/lifecycle"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/vmmprocess"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/vmmprocess/jailer"
)

// listen reads what Firecracker says when something is wrong.
func (m *machine) listen(drainer *console.Drainer) error {
	pipe, err := vmmprocess.OpenStderr(filepath.Join(m.handle.RunDir, stderrName))
	if err != nil {
		return err
	}
	return m.words.Listen(pipe, drainer)
}

// attach opens the FIFOs of metrics and console. fresh says that nothing has been written to them yet. What it opened
// before an error is closed by letGo.
func (m *machine) attach(j *jail.Jail, b *Backend, fresh bool) error {
	t := &m.meter
	t.log = b.cfg.Log.With("vm", m.handle.VM).Warn
	var err error
	if t.pipe, err = j.OpenFIFO(jailer.Metrics); err != nil {
		return err
	}
	if _, err := jail.SetPipeSize(t.pipe); err != nil {
		return err
	}
	start := fifo.Open
	if fresh {
		start = fifo.Create
	}
	if t.collector, err = start(m.handle.RunDir, m.devices(), t.pipe); err != nil {
		return err
	}
	if doubt := t.collector.Doubt(); doubt != nil {
		t.log("what a VM used before metald was restarted is not known in full", "why", doubt)
	}
	if !m.spec.Console.Enabled {
		return nil
	}
	pipe, err := j.OpenFIFO(jailer.Console)
	if err != nil {
		return err
	}
	m.console, err = b.cfg.Drainer.Add(pipe, &m.watch)
	return err
}

// devices are the ids of the devices that metrics are kept of.
func (m *machine) devices() metrics.Devices {
	var d metrics.Devices
	for i := range m.spec.Disks {
		d.Drives = append(d.Drives, driveID(i))
	}
	for i := range m.spec.Networks {
		d.Networks = append(d.Networks, networkID(i))
	}
	return d
}

// checkFIFOs sees that what Firecracker has opened is what metald reads: it makes a file where it finds none.
func (m *machine) checkFIFOs(j *jail.Jail) error {
	again, err := j.OpenFIFO(jailer.Metrics)
	if err != nil {
		return err
	}
	defer again.Close()
	had, err1 := m.meter.pipe.Stat()
	has, err2 := again.Stat()
	if err := errors.Join(err1, err2); err != nil {
		return err
	}
	if a, b := had.Sys().(*syscall.Stat_t), has.Sys().(*syscall.Stat_t); a.Dev != b.Dev || a.Ino != b.Ino {
		return errors.New("the FIFO of the metrics was replaced")
	}
	return nil
}

// answers waits until Firecracker serves its API, which is a moment after its socket is there, and returns its version.
// Its VM has not been started.
func (m *machine) answers(ctx context.Context) (version, error) {
	for wait := 100 * time.Microsecond; ; wait = min(2*wait, 10*time.Millisecond) {
		info, err := m.api.info(ctx)
		if err == nil && info.State != stateNotStarted {
			err = fmt.Errorf("it is %q before it was told to start", info.State)
		}
		if err == nil {
			return parseVersion(info.VMMVersion)
		}
		if !errors.Is(err, syscall.ECONNREFUSED) || ctx.Err() != nil {
			return version{}, err
		}
		timer := time.NewTimer(wait)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return version{}, err
		}
	}
}

// abandon kills a Firecracker that did not come up, and says why it did not.
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
		err = types.Errorf(types.KindUnavailable, "Firecracker ended before it could be talked to: %s", words)
	default:
		err = types.Errorf(types.KindUnavailable, "create VM %s: %w", m.handle.VM, err)
	}
	m.unlife()
	m.letGo()
	return errors.Join(err, killErr)
}

// Adopt takes over a Firecracker that an earlier metald started: the process is the one of the handle, and it is the
// one that listens on the socket in its root.
func (b *Backend) Adopt(ctx context.Context, req types.AdoptRequest) (types.Machine, error) {
	p, err := checkHandle(req.Handle)
	if err != nil {
		return nil, err
	}
	m := newMachine(req.Handle, req.Spec, home{cage: b.cage, runDir: req.Handle.RunDir, private: p}, req.Console, req.Ended)
	if m.process, err = b.cfg.Supervisor.Adopt(req.Handle.Process); err != nil {
		m.unlife()
		return nil, fmt.Errorf("adopt Firecracker of VM %s: %w", req.Handle.VM, err)
	}
	m.compare()
	if err := m.reattach(ctx, b); err != nil {
		return nil, m.refuse(ctx, err)
	}
	if err := m.listen(b.cfg.Drainer); err != nil {
		b.cfg.Log.Warn("what Firecracker says of its end will not be known", "vm", req.Handle.VM, "error", err)
	}
	m.note("metald was away; what the guest wrote beyond what the console's pipe holds is lost")
	go m.run()
	return m, nil
}

// reattach talks to a Firecracker that runs already.
func (m *machine) reattach(ctx context.Context, b *Backend) error {
	root, err := m.home.root()
	if err != nil {
		return err
	}
	if m.jail, err = jail.Open(root); err != nil {
		return err
	}
	m.api = newClient(dial(m.jail, m.handle.Process.PID))
	info, err := m.api.info(ctx)
	if err != nil {
		return err
	}
	m.started = info.State != stateNotStarted
	if m.started {
		m.meter.run(states[info.State] == lifecycle.Running) // which flushes what came while no metald was there
	}
	return m.attach(m.jail, b, false)
}

// refuse leaves a Firecracker that could not be adopted as it is, and says whether it may be tried again.
func (m *machine) refuse(ctx context.Context, err error) error {
	gone := ctx.Err() == nil && !errors.Is(err, errMute) && m.diesWithin(ctx, drainTimeout)
	m.unlife()
	m.process.Release()
	m.letGo()
	if gone {
		return fmt.Errorf("adopt Firecracker of VM %s: %w: it ended meanwhile", m.handle.VM, types.ErrGone)
	}
	return m.unavailable(ctx, fmt.Errorf("adopt Firecracker: %w", err))
}

// note writes a line of metald's own to the console, where that can tell it from the guest's.
func (m *machine) note(text string) {
	if n, ok := m.watch.Out.(interface{ Note(text string) }); ok && m.console != nil {
		n.Note(text)
	}
}
