package qemu

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"sync"
	"time"

	"github.com/unkeyed/unkey/go/deploy/metald/internal/backend/tally"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/backend/types"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/vmmprocess"
)

// statsTimeout bounds a question on the statistics monitor.
const statsTimeout = time.Second

// statsIdle is how long the statistics monitor may go unasked with its connection kept: QEMU queues events for it.
const statsIdle = time.Second

// Usage reads the counters of the process, of QEMU's disks and of the taps. The figures of a QEMU that doesn't answer
// are unknown; those of the kernel are there all the same.
//
// In the last word the disks' figures are those of a guest that stood still and whose requests were done: it had ended,
// or Destroy had stopped it. They are unknown where QEMU was killed, ended by itself, or did not answer in time.
func (m *machine) Usage(ctx context.Context) (types.Usage, error) {
	if m.died() {
		return m.lastWord(ctx)
	}
	u := types.Usage{At: time.Now(), Networks: m.taps.Used()}
	tally.Process(&u, m.handle.Process.PID)
	if disks, err := m.stats.disks(ctx, m.handle.RunDir, m.spec.Disks); err == nil {
		u.Disks = disks
	}
	if m.died() { // the pid may be another's
		return m.lastWord(ctx)
	}
	return u, nil
}

// lastWord is what the incarnation used in all. It waits for Exited.
func (m *machine) lastWord(ctx context.Context) (types.Usage, error) {
	select {
	case <-m.exited:
	case <-m.finished: // ended, or released
	case <-ctx.Done():
	}
	select {
	case <-m.exited:
		m.mu.Lock()
		defer m.mu.Unlock()
		return tally.Copy(m.used), nil
	default:
	}
	if ctx.Err() != nil {
		return types.Usage{}, m.unavailable(ctx, context.Cause(ctx))
	}
	return types.Usage{}, types.Errorf(types.KindUnavailable, "VM %s: %w", m.handle.VM, types.ErrGone)
}

// Sources are the process and its taps.
func (m *machine) Sources() types.Sources {
	return types.Sources{PID: m.handle.Process.PID, Taps: m.taps.Sources()}
}

// stats is the statistics monitor: connected when it is first asked, read by whoever asks.
type stats struct {
	mu     sync.Mutex // guards the two below, and is held while QEMU is asked
	client *client
	asked  time.Time

	cut    sync.Mutex // guards what close may cut while a question is under way
	conn   *net.UnixConn
	closed bool
}

// disks reads the counters of all disks, by the disks' ids.
func (s *stats) disks(ctx context.Context, runDir string, disks []types.Disk) (map[string]types.DiskUsage, error) {
	if len(disks) == 0 {
		return nil, nil
	}
	result, err := s.ask(ctx, runDir, "query-blockstats")
	if err != nil {
		return nil, err
	}
	return parseBlockStats(result, disks)
}

// blockStats is an entry of the reply to query-blockstats. QEMU's counters are unsigned.
type blockStats struct {
	Node  string `json:"node-name"`
	Stats struct {
		ReadBytes  uint64 `json:"rd_bytes"`
		WriteBytes uint64 `json:"wr_bytes"`
		ReadOps    uint64 `json:"rd_operations"`
		WriteOps   uint64 `json:"wr_operations"`
	} `json:"stats"`
}

func parseBlockStats(reply json.RawMessage, disks []types.Disk) (map[string]types.DiskUsage, error) {
	var entries []blockStats
	if err := json.Unmarshal(reply, &entries); err != nil {
		return nil, fmt.Errorf("query-blockstats: %w: %v", errNotQMP, err)
	}
	byNode := make(map[string]blockStats, len(entries))
	for _, e := range entries {
		byNode[e.Node] = e
	}
	all := make(map[string]types.DiskUsage, len(disks))
	for i, d := range disks {
		e, ok := byNode[nodeName(i)]
		if !ok {
			return nil, fmt.Errorf("query-blockstats: nothing about %s", nodeName(i))
		}
		all[d.ID] = types.DiskUsage{
			ReadBytes: int64(e.Stats.ReadBytes), WriteBytes: int64(e.Stats.WriteBytes),
			ReadOps: int64(e.Stats.ReadOps), WriteOps: int64(e.Stats.WriteOps),
		}
	}
	return all, nil
}

func (s *stats) ask(ctx context.Context, runDir, name string) (json.RawMessage, error) {
	ctx, cancel := context.WithTimeout(ctx, statsTimeout)
	defer cancel()
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.connect(ctx, runDir); err != nil {
		return nil, err
	}
	lift := bound(ctx, s.client.conn, statsTimeout)
	result, err := s.client.exchange(ctx, name, nil)
	lift()
	idle := time.Since(s.asked) > statsIdle
	s.asked = time.Now()
	if err != nil || idle {
		s.disconnect()
	}
	return result, err
}

// doer asks on the statistics monitor of the QEMU with that run directory.
func (s *stats) doer(runDir string) doFunc {
	return func(ctx context.Context, name string, _ any) (json.RawMessage, error) {
		return s.ask(ctx, runDir, name)
	}
}

// connect is called with mu held.
func (s *stats) connect(ctx context.Context, runDir string) error {
	if s.client != nil {
		return nil
	}
	conn, err := vmmprocess.Dial(ctx, runDir, statsSocket)
	if err != nil {
		return err
	}
	if !s.keep(conn) {
		conn.Close()
		return errClosed
	}
	s.client, err = greet(ctx, conn, nil)
	return err
}

// keep makes conn the connection that close closes, if it wasn't called yet.
func (s *stats) keep(conn *net.UnixConn) bool {
	s.cut.Lock()
	defer s.cut.Unlock()
	if !s.closed {
		s.conn = conn
	}
	return !s.closed
}

// disconnect is called with mu held.
func (s *stats) disconnect() {
	s.client.close()
	s.client = nil
}

// close ends the connection for good, a question that is under way too.
func (s *stats) close() {
	s.cut.Lock()
	defer s.cut.Unlock()
	s.closed = true
	if s.conn != nil {
		s.conn.Close()
	}
}
