package qemu

import (
	"context"
	"encoding/json"
	"syscall"
	"time"

	"github.com/unkeyed/unkey/go/deploy/metald/internal/backend/tally"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/backend/types"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/vm/lifecycle"
)

const (
	// lastTimeout bounds the wait for a last reading of a VM that is to be killed.
	lastTimeout = 250 * time.Millisecond
	// leaveTimeout is how long a QEMU whose guest has ended may take to end, too, until it is killed.
	leaveTimeout = 10 * time.Second
	// forsakenEvery is how often a QEMU whose control monitor was lost is asked whether its guest has ended.
	forsakenEvery = time.Second
)

// farewell is what is asked of a QEMU last. Its guest, when it ends, leaves it waiting (-action shutdown=pause), since
// the disks' counters end with the process.
type farewell struct {
	asked   bool
	stopped chan *message // the reply to stop: nothing is under way to the disks any more
	counted chan *message // the reply to query-blockstats
}

// leave asks QEMU to stop the guest, which may have ended, to say what its disks were used for, and to quit, if it is to.
// It waits for nothing: QEMU obeys in order. It returns false where that cannot be asked, and true where it was before.
func (m *machine) leave(quit bool) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.last.asked {
		return true
	}
	m.last.asked = true
	var err error
	if len(m.spec.Disks) > 0 {
		if _, m.last.stopped, err = m.control.send("stop", nil); err == nil {
			_, m.last.counted, err = m.control.send("query-blockstats", nil)
		}
	}
	if quit && err == nil {
		_, _, err = m.control.send("quit", nil)
	}
	return err == nil
}

// guestEnded is called when QEMU says that its guest has ended, or was found so. A QEMU that does not end then is killed.
func (m *machine) guestEnded() {
	switch asked := m.leave(true); {
	case !asked:
		_ = m.process.Signal(syscall.SIGKILL) // an end of its own comes to the same
		return
	case m.overdue != nil:
		return // it says so of its own end, too
	}
	m.overdue = time.AfterFunc(leaveTimeout, func() { _ = m.process.Signal(syscall.SIGKILL) })
}

// awaitReading waits a little until QEMU has answered what leave asked: it answers in order, so a further question has
// its answer after that.
func (m *machine) awaitReading(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, lastTimeout)
	defer cancel()
	_, _ = m.control.do(ctx, "query-status", nil)
}

// total is what the incarnation used in all, after its end.
func (m *machine) total() types.Usage {
	return types.Usage{At: time.Now(), CPUTime: tally.Clock(m.process), Networks: m.taps.Used(), Disks: m.lastDisks()}
}

// lastDisks are the figures of the disks that were read when nothing more could be done to them; nil where they were not.
// It is called when nobody reads replies any more.
func (m *machine) lastDisks() map[string]types.DiskUsage {
	m.mu.Lock()
	defer m.mu.Unlock()
	if !m.begun {
		return tally.NoDisks(m.spec.Disks)
	}
	if _, err := arrived(m.last.stopped); err != nil {
		return nil
	}
	counters, err := arrived(m.last.counted)
	if err != nil {
		return nil
	}
	disks, err := parseBlockStats(counters, m.spec.Disks)
	if err != nil {
		return nil
	}
	return disks
}

// arrived returns what a reply says that has come and is no refusal.
func arrived(ch chan *message) (json.RawMessage, error) {
	select {
	case reply, ok := <-ch:
		if !ok {
			return nil, errClosed
		}
		return reply.result()
	default:
		return nil, errMute
	}
}

// forsaken watches a QEMU whose control monitor was lost until it ends or the machine is released: it says no more when
// its guest has ended, and would wait for ever.
func (m *machine) forsaken() {
	tick := time.NewTicker(forsakenEvery)
	defer tick.Stop()
	for {
		select {
		case <-m.process.Exited():
			return
		case <-m.released:
			return
		case <-tick.C:
		}
		status, err := queryStatus(context.Background(), m.stats.doer(m.handle.RunDir))
		if err == nil && runStates[status] == lifecycle.Shutdown {
			_ = m.process.Signal(syscall.SIGKILL)
		}
	}
}
