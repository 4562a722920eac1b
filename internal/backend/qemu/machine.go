package qemu

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"sync"
	"syscall"
	"time"

	"github.com/unkeyed/unkey/go/deploy/metald/internal/backend/tally"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/backend/types"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/console"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/host/dir"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/vm/lifecycle"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/vmmprocess"
)

const (
	// quitTimeout is how long a QEMU that was told to quit may take until it is killed.
	quitTimeout = 2 * time.Second
	// killTimeout is how long the kernel may take to end a process that was killed.
	killTimeout = 5 * time.Second
	// drainTimeout is how long the console of a QEMU that has ended may take to be written away.
	drainTimeout = time.Second
)

// machine is one QEMU. One goroutine reads its control monitor and, when QEMU has ended, puts together why.
type machine struct {
	handle  types.Handle
	spec    types.Spec
	taps    tally.Taps
	process *vmmprocess.Process
	control *client
	console *console.Source // nil without a console
	watch   console.Watch
	words   console.LastWords
	stats   stats

	exited   chan struct{}
	told     func() // called when exited was closed; may be nil
	onStop   func() // called when QEMU stopped the guest by itself; may be nil
	released chan struct{}
	finished chan struct{} // run has returned
	release  sync.Once

	overdue *time.Timer // kills a QEMU that does not end with its guest; of run and what it calls

	mu       sync.Mutex // guards what follows
	last     farewell
	shutdown string // reason of the first SHUTDOWN event: where it is the guest's, another follows when QEMU is told to quit
	found    bool   // its guest had ended when metald found it
	begun    bool   // the guest ran, or was just told to
	panicked bool   // a GUEST_PANICKED event came
	resumed  bool   // a RESUME event came since the last cont was sent
	ordered  bool   // order is under way
	stopped  bool   // a STOP event came since it began
	broken   bool   // QEMU has said that it met an internal error
	forced   bool   // Destroy ended it
	exit     types.Exit
	used     types.Usage // in all
}

// run reads what QEMU says until it has ended, and then says how, or until the machine is released.
func (m *machine) run() {
	defer close(m.finished)
	_ = m.control.read() // ends with QEMU, at the latest
	if m.overdue != nil {
		defer m.overdue.Stop()
	}
	m.forsaken()
	if !m.died() {
		return
	}
	m.drain()
	m.stats.close()
	m.settle()
	close(m.exited)
	if m.told != nil {
		m.told()
	}
}

// drain waits until the console's last words are written.
func (m *machine) drain() {
	if m.console == nil {
		return
	}
	timer := time.NewTimer(drainTimeout)
	defer timer.Stop()
	select {
	case <-m.console.Drained():
	case <-timer.C:
	}
	m.console.Close()
}

// settle puts together how QEMU ended.
func (m *machine) settle() {
	words, used := m.words.Text(), m.total()
	m.mu.Lock()
	defer m.mu.Unlock()
	e := ending{shutdown: m.shutdown, panicked: m.panicked, found: m.found, forced: m.forced, broken: m.broken, stderr: words}
	if line, yes := m.watch.Panicked(); yes {
		e.panicked, e.panicLine = true, line
	}
	e.status, e.known = m.process.Status()
	m.exit, m.used = e.exit(), used
}

// event is called for each event of the control monitor.
func (m *machine) event(name string, data []byte) {
	if m.heed(name, data) && m.onStop != nil {
		m.onStop()
	}
	if name == "SHUTDOWN" {
		m.guestEnded()
	}
}

// heed notes an event and tells whether it says that QEMU stopped the guest by itself.
func (m *machine) heed(name string, data []byte) (stopped bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	switch name {
	case "STOP":
		m.stopped = m.ordered
		return !m.ordered && !m.last.asked && m.shutdown == "" // or it is on its way out
	case "RESUME":
		m.resumed, m.begun = true, true
	case "GUEST_PANICKED":
		m.panicked = true
	case "SHUTDOWN":
		var shutdown struct {
			Reason string `json:"reason"`
		}
		if json.Unmarshal(data, &shutdown) == nil && m.shutdown == "" {
			m.shutdown = shutdown.Reason
		}
	}
	return false
}

func (m *machine) Handle() types.Handle { return m.handle }

// Boot lets the vCPUs run and sees them run.
func (m *machine) Boot(ctx context.Context) error {
	m.mu.Lock()
	m.resumed, m.begun = false, true
	m.last = farewell{} // of an end that did not come
	m.mu.Unlock()
	err := m.order(ctx, "cont", lifecycle.Running)
	if err == nil || !m.sawRunning() {
		return err
	}
	// It ran, and ended before it could be asked whether it runs.
	if state, stateErr := m.State(ctx); stateErr != nil || state != lifecycle.Shutdown {
		return err
	}
	return nil
}

func (m *machine) sawRunning() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.resumed
}

// Pause stops the vCPUs and sees them stopped.
func (m *machine) Pause(ctx context.Context) error { return m.order(ctx, "stop", lifecycle.Paused) }

// Resume lets the vCPUs go on and sees them run.
func (m *machine) Resume(ctx context.Context) error { return m.Boot(ctx) }

// order gives a command that has an effect on the state, and observes it: QEMU answers alike where it has none.
func (m *machine) order(ctx context.Context, command string, want lifecycle.State) error {
	m.mu.Lock()
	m.ordered, m.stopped = true, false
	m.mu.Unlock()
	defer m.obeyed(want)
	if _, err := m.control.do(ctx, command, nil); err != nil {
		return m.unavailable(ctx, err)
	}
	got, err := m.State(ctx)
	if err != nil {
		return err
	}
	if got != want {
		return types.Errorf(types.KindUnavailable, "VM %s was to be %s and is %s", m.handle.VM, want, got)
	}
	return nil
}

// obeyed is the end of an order: a guest that was to run and was stopped meanwhile was so by QEMU.
func (m *machine) obeyed(want lifecycle.State) {
	m.mu.Lock()
	stopped := m.stopped && want == lifecycle.Running
	m.ordered = false
	m.mu.Unlock()
	if stopped && m.onStop != nil {
		m.onStop()
	}
}

// Shutdown presses the power button. QEMU says yes whether or not the guest has a driver for it.
func (m *machine) Shutdown(ctx context.Context) error {
	if _, err := m.control.do(ctx, "system_powerdown", nil); err != nil {
		return m.unavailable(ctx, err)
	}
	return nil
}

// State asks QEMU.
func (m *machine) State(ctx context.Context) (lifecycle.State, error) {
	select {
	case <-m.process.Exited():
		return lifecycle.Shutdown, nil
	default:
	}
	status, err := queryStatus(ctx, m.control.do)
	if errors.Is(err, errClosed) && m.ends(ctx) {
		return lifecycle.Shutdown, nil
	}
	if err != nil {
		return lifecycle.Absent, m.unavailable(ctx, err)
	}
	if status == "internal-error" {
		m.mu.Lock()
		m.broken = true
		m.mu.Unlock()
	}
	state, ok := runStates[status]
	if !ok {
		return lifecycle.Absent, types.Errorf(types.KindUnavailable, "QEMU says that VM %s is %q, which metald does not know", m.handle.VM, status)
	}
	return state, nil
}

// ends waits a little for the end of a QEMU that has closed its monitor.
func (m *machine) ends(ctx context.Context) bool {
	timer := time.NewTimer(drainTimeout)
	defer timer.Stop()
	select {
	case <-m.process.Exited():
		return true
	case <-timer.C:
	case <-ctx.Done():
	}
	return false
}

// runStates is what QEMU's run states mean. After internal-error and guest-panicked the guest cannot go on;
// after io-error it can, once there is room on the disk.
var runStates = map[string]lifecycle.State{
	"prelaunch": lifecycle.Created, "inmigrate": lifecycle.Created,
	"running": lifecycle.Running,
	"paused":  lifecycle.Paused, "debug": lifecycle.Paused, "io-error": lifecycle.Paused, "watchdog": lifecycle.Paused,
	"suspended": lifecycle.Paused, "save-vm": lifecycle.Paused, "restore-vm": lifecycle.Paused,
	"finish-migrate": lifecycle.Paused, "postmigrate": lifecycle.Paused,
	"shutdown": lifecycle.Shutdown, "guest-panicked": lifecycle.Shutdown, "internal-error": lifecycle.Shutdown,
}

type doFunc func(ctx context.Context, name string, args any) (json.RawMessage, error)

func queryStatus(ctx context.Context, do doFunc) (string, error) {
	result, err := do(ctx, "query-status", nil)
	if err != nil {
		return "", err
	}
	var status struct {
		Status string `json:"status"`
	}
	if err := json.Unmarshal(result, &status); err != nil {
		return "", fmt.Errorf("query-status: %w: %v", errNotQMP, err)
	}
	return status.Status, nil
}

// unavailable is the error of a QEMU that is gone, mute or refuses.
func (m *machine) unavailable(ctx context.Context, err error) error {
	if errors.Is(context.Cause(ctx), context.Canceled) {
		return types.Errorf(types.KindCanceled, "VM %s: %w", m.handle.VM, err)
	}
	return types.Errorf(types.KindUnavailable, "VM %s: %w", m.handle.VM, err)
}

func (m *machine) Exited() <-chan struct{} { return m.exited }

func (m *machine) Exit() types.Exit {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.exit
}

// Destroy reads what the disks were used for, tells a QEMU that writes to some to quit, kills it where it doesn't within
// quitTimeout or ctx, or where it has nothing to finish, and removes the run directory.
func (m *machine) Destroy(ctx context.Context) error {
	if !m.died() && !m.writes() {
		m.force()
		if len(m.spec.Disks) > 0 && m.leave(false) {
			m.awaitReading(ctx)
		}
		_ = m.process.Signal(syscall.SIGKILL) // an end of its own comes to the same
		_ = dir.Remove(m.handle.RunDir)       // while it dies; what cannot be removed is tried again, and told, below
	}
	if err := m.end(ctx); err != nil {
		return fmt.Errorf("end QEMU of VM %s: %w", m.handle.VM, err)
	}
	return dir.Remove(m.handle.RunDir)
}

func (m *machine) end(ctx context.Context) error {
	if m.ended() {
		return nil
	}
	if !m.died() && m.writes() {
		m.force()
		if m.quit(ctx) {
			return nil
		}
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), killTimeout)
	defer cancel()
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

func (m *machine) ended() bool {
	select {
	case <-m.exited:
		return true
	default:
		return false
	}
}

// died tells whether the process has ended, though perhaps not all that it said was read: an end that metald did not
// force.
func (m *machine) died() bool {
	select {
	case <-m.process.Exited():
		return true
	default:
		return false
	}
}

// force notes that metald ends it.
func (m *machine) force() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.forced = true
}

// writes tells whether QEMU may have something to finish: writes to a disk that it has taken from the guest.
func (m *machine) writes() bool {
	return slices.ContainsFunc(m.spec.Disks, func(d types.Disk) bool { return !d.ReadOnly })
}

// quit asks QEMU to end, which lets its disks finish what they do, and tells whether it has.
func (m *machine) quit(ctx context.Context) bool {
	if !m.leave(true) {
		return false
	}
	timer := time.NewTimer(quitTimeout)
	defer timer.Stop()
	select {
	case <-m.exited:
		return true
	case <-timer.C:
	case <-ctx.Done():
	}
	return false
}

// Release closes the connections; QEMU and its guest go on, and output of the console is lost until somebody adopts.
func (m *machine) Release() {
	m.release.Do(func() {
		close(m.released)
		m.control.close()
		m.process.Release()
		if m.console != nil {
			m.console.Close()
		}
		m.words.Close()
		m.stats.close()
	})
	<-m.finished
}
