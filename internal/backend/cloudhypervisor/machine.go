package cloudhypervisor

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
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
	// drainTimeout is how long what a Cloud Hypervisor that has ended said last may take to be read.
	drainTimeout = time.Second
)

// machine is one Cloud Hypervisor. One goroutine looks after it while it runs and, when it has ended, puts together why.
type machine struct {
	handle  types.Handle
	spec    types.Spec
	home    home
	log     *slog.Logger
	root    *jail.Jail // the VMM's root
	process *vmmprocess.Process
	api     *client
	version version
	console *console.Source // nil without a console
	events  *console.Source // nil where nobody listens
	watch   console.Watch
	words   console.LastWords
	meter   meter

	life   context.Context // of what run has under way
	unlife context.CancelFunc

	exited   chan struct{}
	told     func() // called when exited was closed; may be nil
	onStop   func() // called when the guest was stopped unasked; may be nil
	released chan struct{}
	finished chan struct{} // run has returned
	release  sync.Once

	mu sync.Mutex
	status
}

// status is what is known of the guest.
type status struct {
	begun    bool   // there is a process, and who has the machine may end it
	started  bool   // the guest ran, or was just told to
	ran      bool   // it was seen to run
	running  bool   // its vCPUs run, unless they were stopped unasked
	panicked bool   // it said so to its pvpanic device
	reset    bool   // it restarted
	removed  bool   // somebody else took it away
	refusal  string // what the VMM said to a boot; "" if it did not refuse
	forced   bool   // Destroy ended the VMM
	exit     types.Exit
	used     types.Usage // in all
}

// newMachine returns a machine that has neither process nor connections yet.
func newMachine(h types.Handle, spec types.Spec, at home, screen io.Writer, ended, stopped func()) *machine {
	m := &machine{
		handle: h, spec: spec, home: at, told: ended, onStop: stopped,
		exited: make(chan struct{}), released: make(chan struct{}), finished: make(chan struct{}),
	}
	if spec.Console.Output != "none" {
		m.watch.Out = screen
	}
	m.meter.turn = make(chan struct{}, 1)
	m.life, m.unlife = context.WithCancel(context.Background())
	return m
}

// begin looks after the machine from now on.
func (m *machine) begin() {
	m.mu.Lock()
	m.begun = true
	over := m.reset || m.removed
	m.mu.Unlock()
	if over {
		m.endGuest(func(s *status) {})
	}
	go m.run()
}

// run looks after the guest until Cloud Hypervisor has ended, and then says how, or until the machine is released.
func (m *machine) run() {
	defer close(m.finished)
	if !m.lookAfter() {
		return
	}
	m.drain()
	m.settle()
	m.root.Close()
	close(m.exited)
	if m.told != nil {
		m.told()
	}
}

// drain reads what Cloud Hypervisor and its guest said last.
func (m *machine) drain() {
	m.api.close()
	ctx, cancel := context.WithTimeout(context.Background(), drainTimeout)
	defer cancel()
	if m.events != nil {
		defer m.events.Close()
		select {
		case <-m.events.Drained():
		case <-ctx.Done():
		}
	}
	if m.console != nil {
		defer m.console.Close()
		select {
		case <-m.console.Drained():
		case <-ctx.Done():
		}
	}
}

// settle puts together how Cloud Hypervisor ended.
func (m *machine) settle() {
	words, used := m.words.Text(), m.total()
	line, panicked := m.watch.Panicked()
	m.mu.Lock()
	defer m.mu.Unlock()
	e := ending{
		words: words, panicked: panicked || m.panicked, panicLine: line,
		reset: m.reset, removed: m.removed, refusal: m.refusal, forced: m.forced, started: m.started,
	}
	if !panicked {
		e.panicLine = ""
	}
	e.status, e.known = m.process.Status()
	m.exit, m.used = e.exit(), used
	if m.ran && !m.meter.complete() {
		m.log.Info("what a VM read and wrote in the last moments before its end is not known", "last reading", m.meter.last())
	}
}

func (m *machine) Handle() types.Handle { return m.handle }

// Boot starts the guest the first time. One that Cloud Hypervisor refuses ends it: of a disk or an interface that it could
// not open it has forgotten the config, and would boot the guest without the next time (53.0, seen).
func (m *machine) Boot(ctx context.Context) error {
	if err := m.whole(ctx); err != nil {
		return err
	}
	m.set(func(s *status) { s.started = true }) // it may end at once
	err := m.order(ctx, m.api.boot, lifecycle.Running)
	if err != nil {
		m.set(func(s *status) { s.started = s.ran || m.died() })
	}
	refusal := refusedOr(err)
	if refusal == nil {
		return err
	}
	m.endGuest(func(s *status) { s.refusal = "it refused to boot: " + refusal.Error() })
	return refusal
}

// whole sees that Cloud Hypervisor still has all disks and interfaces of the VM, and ends it where it has not: a boot that
// nobody waited for, or of which an earlier metald did not hear, may have been refused.
func (m *machine) whole(ctx context.Context) error {
	info, err := m.api.info(ctx)
	var has struct{ Disks, Net []json.RawMessage }
	if err == nil {
		err = json.Unmarshal(info.Config, &has)
	}
	var refusal *fault
	switch {
	case err != nil && !errors.As(err, &refusal):
		return m.unavailable(ctx, err)
	case err == nil && len(has.Disks) == len(m.spec.Disks) && len(has.Net) == len(m.spec.Networks):
		return nil
	}
	m.endGuest(func(s *status) { s.refusal = "a boot was refused, and it has forgotten disks or interfaces since" })
	return types.Errorf(types.KindUnavailable, "VM %s: its VMM has forgotten disks or interfaces after a boot that it refused, and was ended; boot it again", m.handle.VM)
}

// refusedOr is the refusal of a boot, for the client; nil where the boot was not refused, but perhaps not answered.
func refusedOr(err error) error {
	var f *fault
	if !errors.As(err, &f) {
		return nil
	}
	if refusal := refusedBoot(err); refusal != nil {
		return refusal
	}
	return err
}

// Pause stops the vCPUs and sees them stopped.
func (m *machine) Pause(ctx context.Context) error {
	m.set(func(s *status) { s.running = false })
	return m.order(ctx, m.api.pause, lifecycle.Paused)
}

// Resume lets the vCPUs go on and sees them run.
func (m *machine) Resume(ctx context.Context) error {
	return m.order(ctx, m.api.resume, lifecycle.Running)
}

// order gives a command and observes what came of it. A guest that was to run and ended at once did run. A command that
// an earlier one made needless is refused, and well.
func (m *machine) order(ctx context.Context, command func(context.Context) error, want lifecycle.State) error {
	commandErr := command(ctx)
	var refusal *fault
	if commandErr != nil && !errors.As(commandErr, &refusal) {
		return m.unavailable(ctx, commandErr)
	}
	got, err := m.State(ctx)
	switch {
	case err != nil && refusal != nil:
		return errors.Join(commandErr, err)
	case err != nil:
		return err
	case got == want, got == lifecycle.Shutdown && want == lifecycle.Running:
		return nil
	case commandErr != nil:
		return m.unavailable(ctx, commandErr)
	}
	return types.Errorf(types.KindUnavailable, "VM %s was to be %s and is %s", m.handle.VM, want, got)
}

// Shutdown presses the power button. Cloud Hypervisor says yes whether or not the guest cares.
func (m *machine) Shutdown(ctx context.Context) error {
	if err := m.api.powerButton(ctx); err != nil {
		return m.unavailable(ctx, err)
	}
	return nil
}

// states are Cloud Hypervisor's, in metald's words.
var states = map[string]lifecycle.State{
	stateCreated: lifecycle.Created, stateRunning: lifecycle.Running, statePaused: lifecycle.Paused,
	stateBreakPoint: lifecycle.Paused, stateShutdown: lifecycle.Shutdown,
}

// State asks Cloud Hypervisor. One whose guest is gone is about to be ended.
func (m *machine) State(ctx context.Context) (lifecycle.State, error) {
	if m.died() {
		return lifecycle.Shutdown, nil
	}
	info, err := m.api.info(ctx)
	// One whose guest has powered off has no VM any more and ends at once.
	var refusal *fault
	if (errors.Is(err, errClosed) || errors.As(err, &refusal)) && m.diesWithin(ctx, drainTimeout) {
		return lifecycle.Shutdown, nil
	}
	if err != nil {
		return lifecycle.Absent, m.unavailable(ctx, err)
	}
	return m.observed(states[info.State]), nil
}

// observed notes the state that was seen: a verb that was given up may have been carried out all the same. A guest that
// ran and is no more was taken away over the API, by somebody else.
func (m *machine) observed(state lifecycle.State) lifecycle.State {
	m.mu.Lock()
	gone := m.ran && state == lifecycle.Created || state == lifecycle.Shutdown
	if state == lifecycle.Running || state == lifecycle.Paused {
		m.started, m.ran, m.running = true, true, state == lifecycle.Running
	}
	m.mu.Unlock()
	if !gone {
		return state
	}
	m.endGuest(func(s *status) { s.removed = true })
	return lifecycle.Shutdown
}

func (m *machine) set(change func(*status)) {
	m.mu.Lock()
	defer m.mu.Unlock()
	change(&m.status)
}

func (m *machine) now() status {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.status
}

// unavailable is the error of a Cloud Hypervisor that is gone, mute or refuses.
func (m *machine) unavailable(ctx context.Context, err error) error {
	kind := types.KindUnavailable
	if errors.Is(context.Cause(ctx), context.Canceled) {
		kind = types.KindCanceled
	}
	return types.Errorf(kind, "VM %s: %w", m.handle.VM, err)
}

func (m *machine) Exited() <-chan struct{} { return m.exited }

func (m *machine) Exit() types.Exit { return m.now().exit }

// died tells whether the process has ended, though perhaps not all that it said was read.
func (m *machine) died() bool {
	select {
	case <-m.process.Exited():
		return true
	default:
		return false
	}
}

// diesWithin waits a little for the end of a Cloud Hypervisor that has closed its connection.
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

// Destroy reads the counters a last time, kills Cloud Hypervisor, which has nothing to finish (what the guest wrote is the
// host kernel's by then), and removes everything of it.
func (m *machine) Destroy(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), killTimeout)
	defer cancel()
	if err := m.end(ctx); err != nil {
		return fmt.Errorf("end Cloud Hypervisor of VM %s: %w", m.handle.VM, err)
	}
	return m.home.remove(ctx)
}

func (m *machine) end(ctx context.Context) error {
	select {
	case <-m.exited:
		return nil
	default:
	}
	if !m.died() {
		m.set(func(s *status) { s.forced = true })
		if m.now().ran {
			m.lastReading(ctx)
		}
	}
	if err := m.process.Kill(ctx); err != nil {
		return err
	}
	select {
	case <-m.exited:
		return nil
	case <-ctx.Done():
		return errors.New("what it said last could not be read")
	}
}

// Release closes the connections; Cloud Hypervisor and its guest go on. What they say meanwhile waits in the FIFOs.
func (m *machine) Release() {
	m.release.Do(func() {
		close(m.released)
		m.unlife()
		<-m.finished
		if m.events != nil {
			m.events.Close() // an event that was read is acted on; the rest is for the next metald
		}
		m.process.Release()
		m.letGo()
	})
}

// letGo closes what metald has open of a machine that goes on, or never was one.
func (m *machine) letGo() {
	m.unlife()
	if m.api != nil {
		m.api.close()
	}
	if m.console != nil {
		m.console.Close()
	}
	if m.events != nil {
		m.events.Close()
	}
	m.words.Close()
	if m.root != nil {
		m.root.Close()
	}
}

// onExit calls f once Cloud Hypervisor has ended, unless the function that it returns was called before. That one waits.
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
