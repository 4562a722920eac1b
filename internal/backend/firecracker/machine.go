package firecracker

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/unkeyed/unkey/go/deploy/metald/internal/backend/types"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/console"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/host/jail"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/vm/lifecycle"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/vmmprocess"
)

const (
	// killTimeout is how long the kernel may take to end a process that was killed, and its cgroup to notice.
	killTimeout = 5 * time.Second
	// drainTimeout is how long what a Firecracker that has ended said last may take to be read.
	drainTimeout = time.Second
	// askedFor is how long after Ctrl-Alt-Del a reset is still thought to be the guest's answer.
	askedFor = time.Minute
	// lastFlush bounds the wait for a last reading of a VM that is to be ended.
	lastFlush = 250 * time.Millisecond
)

// machine is one Firecracker. One goroutine has its metrics flushed while it runs and, when it has ended, puts together
// why.
type machine struct {
	handle  types.Handle
	spec    types.Spec
	home    home
	jail    *jail.Jail // the VMM's root
	process *vmmprocess.Process
	api     *client
	console *console.Source // nil without a console
	watch   console.Watch
	words   console.LastWords
	meter   meter

	life   context.Context // of what run has under way
	unlife context.CancelFunc

	exited   chan struct{}
	told     func() // called when exited was closed; may be nil
	released chan struct{}
	finished chan struct{} // run has returned
	release  sync.Once

	mu      sync.Mutex
	started bool      // the guest ran
	asked   time.Time // when Ctrl-Alt-Del was pressed last
	off     bool      // the guest was found off, and Firecracker ended for it
	forced  bool      // Destroy ended it
	exit    types.Exit
	used    types.Usage // in all
}

// newMachine returns a machine that has neither process nor connections yet.
func newMachine(h types.Handle, spec types.Spec, at home, screen io.Writer, ended func()) *machine {
	m := &machine{
		handle: h, spec: spec, home: at, told: ended,
		exited: make(chan struct{}), released: make(chan struct{}), finished: make(chan struct{}),
	}
	if spec.Console.Output != "none" {
		m.watch.Out = screen
	}
	m.meter.pace, m.meter.turn = make(chan struct{}, 1), make(chan struct{}, 1)
	m.life, m.unlife = context.WithCancel(context.Background())
	return m
}

// run meters the guest until Firecracker has ended, and then says how, or until the machine is released.
func (m *machine) run() {
	defer close(m.finished)
	if !m.keepTime() {
		return
	}
	m.drain()
	m.settle()
	m.jail.Close()
	close(m.exited)
	if m.told != nil {
		m.told()
	}
}

// drain reads what Firecracker and its guest said last.
func (m *machine) drain() {
	status, known := m.process.Status()
	m.meter.end(known && status.Exited())
	m.api.close()
	if m.console == nil {
		return
	}
	defer m.console.Close()
	m.mu.Lock()
	started := m.started
	m.mu.Unlock()
	if !started {
		return // Firecracker opens the console when it starts the guest: of one that nobody opened no end is seen
	}
	timer := time.NewTimer(drainTimeout)
	defer timer.Stop()
	select {
	case <-m.console.Drained():
	case <-timer.C:
	}
}

// settle puts together how Firecracker ended.
func (m *machine) settle() {
	words, used := m.words.Text(), m.total()
	line, _ := m.watch.Panicked()
	m.mu.Lock()
	defer m.mu.Unlock()
	e := ending{words: words, asked: time.Since(m.asked) < askedFor, off: m.off, panic: line, forced: m.forced, started: m.started}
	e.status, e.known = m.process.Status()
	m.exit, m.used = e.exit(), used
}

func (m *machine) Handle() types.Handle { return m.handle }

// Boot starts the guest the first time.
func (m *machine) Boot(ctx context.Context) error {
	m.setStarted(true) // it may end at once
	err := m.order(ctx, m.api.start, lifecycle.Running)
	if err != nil {
		m.setStarted(m.died())
	}
	return err
}

func (m *machine) setStarted(yes bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.started = yes
}

// Pause stops the vCPUs and sees them stopped.
func (m *machine) Pause(ctx context.Context) error {
	return m.order(ctx, m.api.pause, lifecycle.Paused)
}

// Resume lets the vCPUs go on and sees them run.
func (m *machine) Resume(ctx context.Context) error {
	return m.order(ctx, m.api.resume, lifecycle.Running)
}

// order gives a command and observes what came of it. A guest that was to run and ended at once did run.
func (m *machine) order(ctx context.Context, command func(context.Context) error, want lifecycle.State) error {
	if err := command(ctx); err != nil {
		return m.unavailable(ctx, err)
	}
	got, err := m.State(ctx)
	switch {
	case err != nil:
		return err
	case got == want, got == lifecycle.Shutdown && want == lifecycle.Running:
		return nil
	}
	return types.Errorf(types.KindUnavailable, "VM %s was to be %s and is %s", m.handle.VM, want, got)
}

// Shutdown presses Ctrl-Alt-Del. Firecracker says yes whether or not the guest has a driver for it.
func (m *machine) Shutdown(ctx context.Context) error {
	m.mu.Lock()
	m.asked = time.Now()
	m.mu.Unlock()
	if err := m.api.ctrlAltDel(ctx); err != nil {
		return m.unavailable(ctx, err)
	}
	return nil
}

// states are Firecracker's, in metald's words.
var states = map[string]lifecycle.State{
	stateNotStarted: lifecycle.Created, stateRunning: lifecycle.Running, statePaused: lifecycle.Paused,
}

// State asks Firecracker.
func (m *machine) State(ctx context.Context) (lifecycle.State, error) {
	if m.died() {
		return lifecycle.Shutdown, nil
	}
	info, err := m.api.info(ctx)
	if errors.Is(err, errClosed) && m.diesWithin(ctx, drainTimeout) {
		return lifecycle.Shutdown, nil
	}
	if err != nil {
		return lifecycle.Absent, m.unavailable(ctx, err)
	}
	state := states[info.State]
	m.observed(state)
	return state, nil
}

// observed has the guest metered as it was seen: a verb that was given up may have been carried out all the same.
func (m *machine) observed(state lifecycle.State) {
	if state != lifecycle.Created {
		m.setStarted(true)
	}
	if running := state == lifecycle.Running; running != m.meter.running.Load() {
		m.meter.run(running)
	}
}

// unavailable is the error of a Firecracker that is gone, mute or refuses.
func (m *machine) unavailable(ctx context.Context, err error) error {
	kind := types.KindUnavailable
	if errors.Is(context.Cause(ctx), context.Canceled) {
		kind = types.KindCanceled
	}
	return types.Errorf(kind, "VM %s: %w", m.handle.VM, err)
}

func (m *machine) Exited() <-chan struct{} { return m.exited }

func (m *machine) Exit() types.Exit {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.exit
}

// died tells whether the process has ended, though perhaps not all that it said was read.
func (m *machine) died() bool {
	select {
	case <-m.process.Exited():
		return true
	default:
		return false
	}
}

// diesWithin waits a little for the end of a Firecracker that has closed its connection.
func (m *machine) diesWithin(ctx context.Context, limit time.Duration) bool {
	timer := time.NewTimer(limit)
	defer timer.Stop()
	select {
	case <-m.process.Exited():
		return true
	case <-timer.C:
	case <-ctx.Done():
	}
	return false
}

// Destroy has the metrics written a last time, kills Firecracker, which has nothing to finish (what the guest wrote is
// the host kernel's by then), and removes everything of it.
func (m *machine) Destroy(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), killTimeout)
	defer cancel()
	if err := m.end(ctx); err != nil {
		return fmt.Errorf("end Firecracker of VM %s: %w", m.handle.VM, err)
	}
	return m.home.remove(ctx)
}

func (m *machine) end(ctx context.Context) error {
	select {
	case <-m.exited:
		return nil
	default:
	}
	flushAgain := func() {}
	if !m.died() {
		m.mu.Lock()
		m.forced = true
		started := m.started
		m.mu.Unlock()
		if started {
			flushAgain = m.meter.last(ctx, m.api)
		}
	}
	if err := m.process.Kill(ctx); err != nil {
		flushAgain()
		return err
	}
	select {
	case <-m.exited:
		return nil
	case <-ctx.Done():
		return errors.New("what it said last could not be read")
	}
}

// Release closes the connections; Firecracker and its guest go on. What they write meanwhile waits in their FIFOs.
func (m *machine) Release() {
	m.release.Do(func() {
		close(m.released)
		m.unlife()
		<-m.finished
		m.process.Release()
		m.letGo()
	})
}

// letGo closes what metald has open of a machine that goes on.
func (m *machine) letGo() {
	if m.api != nil {
		m.api.close()
	}
	m.meter.close()
	if m.console != nil {
		m.console.Close()
	}
	m.words.Close()
	if m.jail != nil {
		m.jail.Close()
	}
}

// onExit calls f once Firecracker has ended, unless the function that it returns was called before. That one waits.
func (m *machine) onExit(f func()) (stop func()) {
	over, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		select {
		case <-m.process.Exited():
			f()
		case <-over:
		}
	}()
	return func() {
		close(over)
		<-done
	}
}
