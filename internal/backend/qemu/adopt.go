package qemu

import (
	"context"
	"errors"
	"fmt"
	"io"
	"path/filepath"

	"github.com/unkeyed/unkey/go/deploy/metald/internal/backend/types"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/console"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/vm/lifecycle"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/vmmprocess"
)

// What is in a run directory: sockets, and a FIFO for standard error. QEMU has one client on each: the control monitor and the console are metald's for as
// long as it runs, the statistics monitor is asked now and then.
const (
	controlSocket = "qmp.sock"
	statsSocket   = "stats.sock"
	consoleSocket = "console.sock"
	stderrFile    = "stderr" // a FIFO
)

// newMachine returns a machine that has neither process nor connections yet.
func newMachine(h types.Handle, spec types.Spec, p private, screen io.Writer, ended, stopped func()) *machine {
	m := &machine{
		handle: h, spec: spec, taps: p.Taps, told: ended, onStop: stopped,
		exited: make(chan struct{}), released: make(chan struct{}), finished: make(chan struct{}),
	}
	if spec.Console.Output != "none" {
		m.watch.Out = screen
	}
	return m
}

// attach takes over connections to QEMU's monitor and console. After an error they are closed.
func (m *machine) attach(ctx context.Context, c conns, b *Backend) error {
	control, err := greet(ctx, c.control, m.event)
	if err != nil {
		c.close()
		return err
	}
	m.control, m.handle.VMMVersion = control, control.version
	if c.console == nil {
		return nil
	}
	// The drainer wants the file; the connection is only a wrapper around another one.
	file, err := c.console.File()
	c.console.Close()
	if err == nil {
		m.console, err = b.cfg.Drainer.Add(file, &m.watch)
	}
	if err != nil {
		return fmt.Errorf("drain the console: %w", err)
	}
	return nil
}

// Adopt takes over a QEMU that an earlier metald started: the process is the one of the handle, and it is the one that
// listens on the sockets in the run directory.
func (b *Backend) Adopt(ctx context.Context, req types.AdoptRequest) (types.Machine, error) {
	p, err := checkHandle(req.Handle)
	if err != nil {
		return nil, err
	}
	m := newMachine(req.Handle, req.Spec, p, req.Console, req.Ended, req.Stopped)
	if m.process, err = b.cfg.Supervisor.Adopt(req.Handle.Process); err != nil {
		return nil, fmt.Errorf("adopt QEMU of VM %s: %w", req.Handle.VM, err)
	}
	if err := m.reattach(ctx, b); err != nil {
		return nil, m.letGo(ctx, err)
	}
	if err := m.listen(b.cfg.Drainer); err != nil {
		b.cfg.Log.Warn("what QEMU says of its end will not be known", "vm", req.Handle.VM, "error", err)
	}
	m.note("metald was away; what the guest wrote meanwhile was not observed")
	go m.run()
	return m, nil
}

func (m *machine) reattach(ctx context.Context, b *Backend) error {
	c, err := dialAll(ctx, m.handle.RunDir, m.spec.Console.Enabled)
	if err != nil {
		return err
	}
	// QEMU called listen(2) on the sockets that it inherited, so they show its own pid.
	if peer, err := vmmprocess.PeerPID(c.control); err != nil || peer != m.handle.Process.PID {
		c.close()
		return errors.Join(err, fmt.Errorf("process %d listens on its monitor and not process %d", peer, m.handle.Process.PID))
	}
	if err := m.attach(ctx, c, b); err != nil {
		return err
	}
	return m.recall(ctx)
}

// recall finds out what became of the guest while no metald was there. One that has ended is told to nobody else. Nobody
// reads the monitor yet.
func (m *machine) recall(ctx context.Context) error {
	defer bound(ctx, m.control.conn, qmpTimeout)()
	status, err := queryStatus(ctx, m.control.exchange)
	if err != nil {
		return err
	}
	m.mu.Lock()
	m.begun = m.begun || runStates[status] != lifecycle.Created
	m.found = status == "shutdown" && m.shutdown == ""
	found := m.found
	m.mu.Unlock()
	if found {
		m.guestEnded()
	}
	return nil
}

// letGo leaves a QEMU that could not be adopted as it is, and says whether it may be tried again.
func (m *machine) letGo(ctx context.Context, err error) error {
	if m.control != nil {
		m.control.close()
	}
	gone := ctx.Err() == nil && !errors.Is(err, errMute) && m.diesWithin(drainTimeout)
	m.process.Release()
	if gone {
		return fmt.Errorf("adopt QEMU of VM %s: %w: it ended meanwhile", m.handle.VM, types.ErrGone)
	}
	return m.unavailable(ctx, fmt.Errorf("adopt QEMU: %w", err))
}

// listen reads what QEMU says when something is wrong; it has no other way to say why it refuses to start.
func (m *machine) listen(drainer *console.Drainer) error {
	pipe, err := vmmprocess.OpenStderr(filepath.Join(m.handle.RunDir, stderrFile))
	if err != nil {
		return err
	}
	return m.words.Listen(pipe, drainer)
}

// note writes a line of metald's own to the console, where that can tell it from the guest's.
func (m *machine) note(text string) {
	if n, ok := m.watch.Out.(interface{ Note(text string) }); ok && m.console != nil {
		n.Note(text)
	}
}
