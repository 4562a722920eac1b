package sampler

import (
	"bufio"
	"context"
	"errors"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"github.com/unkeyed/unkey/go/deploy/metald/internal/backend/types"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/host/boot"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/host/proc"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/metering/record"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/metering/usage"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/metering/wal"
)

const patience = 20 * time.Second

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func bootID(tb testing.TB) string {
	tb.Helper()
	id, err := boot.ID()
	if err != nil {
		tb.Fatal(err)
	}
	return id
}

// process is a real process that stands for a VMM.
type process struct {
	tb    testing.TB
	cmd   *exec.Cmd
	in    io.WriteCloser
	out   *bufio.Reader
	id    types.ProcessIdentity
	ended bool
}

// The scripts of processes. Each says a line when it is up, and ends with its standard input.
const (
	idle = "echo up; read x"
	// Burns CPU whenever it is told to, and says so when it has.
	burner = "echo up; while read x; do i=0; while [ $i -lt 20000 ]; do i=$((i+1)); done; echo done; done"
)

func start(tb testing.TB, script string) *process {
	tb.Helper()
	p := &process{tb: tb, cmd: exec.Command("/bin/sh", "-c", script)}
	var err error
	if p.in, err = p.cmd.StdinPipe(); err != nil {
		tb.Fatal(err)
	}
	out, err := p.cmd.StdoutPipe()
	if err != nil {
		tb.Fatal(err)
	}
	p.out = bufio.NewReader(out)
	if err := p.cmd.Start(); err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { p.end() })
	p.hear()
	ticks, err := proc.StartTicks(p.cmd.Process.Pid)
	if err != nil {
		tb.Fatal(err)
	}
	p.id = types.ProcessIdentity{PID: p.cmd.Process.Pid, StartTicks: ticks, BootID: bootID(tb)}
	return p
}

func (p *process) hear() {
	p.tb.Helper()
	if _, err := p.out.ReadString('\n'); err != nil {
		p.tb.Fatalf("the process says nothing: %v", err)
	}
}

func (p *process) burn() {
	p.tb.Helper()
	if _, err := io.WriteString(p.in, "\n"); err != nil {
		p.tb.Fatal(err)
	}
	p.hear()
}

// end ends the process and returns its CPU time, read of the zombie: nothing can be added to it.
func (p *process) end() (cpu time.Duration) {
	if p.ended {
		return 0
	}
	p.ended = true
	p.in.Close()
	if err := unix.Waitid(unix.P_PID, p.id.PID, nil, unix.WEXITED|unix.WNOWAIT, nil); err != nil && p.id.PID != 0 {
		p.tb.Errorf("waitid: %v", err)
	}
	var ts unix.Timespec
	if err := unix.ClockGettime(int32(^p.cmd.Process.Pid<<3|2), &ts); err != nil {
		p.tb.Errorf("the clock of a zombie: %v", err)
	}
	_ = p.cmd.Wait()
	return time.Duration(ts.Nano())
}

// machine is a VM whose process may be real. What it says of disks and networks is scripted.
type machine struct {
	types.Machine // nil: only what is below is called
	handle        types.Handle
	sources       types.Sources

	mu    sync.Mutex
	usage types.Usage
	err   error
	asks  int
	block chan struct{} // where it is set, an answer waits for it to be closed
}

func newMachine(id types.VMID, p *process) *machine {
	m := &machine{handle: types.Handle{VM: id, Incarnation: 1, Process: p.id}, sources: types.Sources{PID: p.id.PID}}
	return m
}

func (m *machine) Handle() types.Handle   { return m.handle }
func (m *machine) Sources() types.Sources { return m.sources }

func (m *machine) Usage(ctx context.Context) (types.Usage, error) {
	m.mu.Lock()
	m.asks++
	u, err, block := m.usage, m.err, m.block
	m.mu.Unlock()
	if block != nil {
		select {
		case <-block:
		case <-ctx.Done():
			return types.Usage{}, ctx.Err()
		}
	}
	return u, err
}

func (m *machine) say(change func(u *types.Usage)) {
	m.mu.Lock()
	defer m.mu.Unlock()
	change(&m.usage)
}

func (m *machine) asked() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.asks
}

var oneDisk = types.Spec{
	CPU: types.CPU{Count: 2}, Memory: types.Memory{SizeBytes: 256 << 20}, Disks: []types.Disk{{ID: "root"}},
}

var noDisk = types.Spec{CPU: types.CPU{Count: 2}, Memory: types.Memory{SizeBytes: 128 << 20}}

func disks(read, written int64) map[string]types.DiskUsage {
	return map[string]types.DiskUsage{"root": {ReadBytes: read, WriteBytes: written}}
}

// rig is a sampler over a real log.
type rig struct {
	*Sampler
	t    testing.TB
	dir  string
	wal  *wal.Log
	logs *lines
	stop func()
}

// lines is what was logged.
type lines struct {
	mu   sync.Mutex
	text []byte
}

func (l *lines) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.text = append(l.text, b...)
	return len(b), nil
}

func (l *lines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return string(l.text)
}

// newRig starts a sampler over the log in dir, and with what the log knows.
func newRig(t testing.TB, dir string, change func(*Config)) *rig {
	t.Helper()
	return prepareRig(t, dir, change, func(*Sampler) {})
}

// prepareRig is newRig, with something to do before the sampler runs.
func prepareRig(t testing.TB, dir string, change func(*Config), prepare func(*Sampler)) *rig {
	t.Helper()
	r := &rig{t: t, dir: dir, logs: &lines{}}
	before := replay(t, dir)
	var err error
	if r.wal, err = wal.Open(dir, wal.Options{SegmentBytes: 1 << 20}); err != nil {
		t.Fatal(err)
	}
	cfg := Config{
		Log: r.wal, Host: "host", Boot: bootID(t), Open: before.open(), LastEpoch: before.lastEpoch,
		Interval: 20 * time.Millisecond, Logger: slog.New(slog.NewTextHandler(r.logs, nil)),
	}
	if change != nil {
		change(&cfg)
	}
	if r.Sampler, err = New(cfg); err != nil {
		t.Fatal(err)
	}
	prepare(r.Sampler)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	logCtx, endLog := context.WithCancel(context.Background())
	logDone := make(chan error, 1)
	go func() { logDone <- r.wal.Run(logCtx) }()
	go func() { done <- r.Run(ctx) }()
	r.stop = sync.OnceFunc(func() {
		cancel()
		err := <-done
		endLog()
		if err := errors.Join(err, <-logDone, r.wal.Close()); err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(r.stop)
	return r
}

// begin has a VM of the process be metered, up to its boot.
func (r *rig) begin(m *machine, spec types.Spec) {
	r.t.Helper()
	if err := r.Begin(m.handle, spec, "tenant"); err != nil {
		r.t.Fatal(err)
	}
	r.Attach(m)
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if err := r.Ready(ctx, m.handle.VM); err != nil {
		r.t.Fatal(err)
	}
	r.Enter(m.handle.VM, usage.Booting)
	r.Enter(m.handle.VM, usage.Running)
}

// account is the account of a VM's life.
func (r *rig) account(id types.VMID) usage.Account {
	for _, a := range r.Accounts() {
		if a.Life.Incarnation.VM == string(id) {
			return a
		}
	}
	r.t.Fatalf("%s has no account", id)
	return usage.Account{}
}

// ticks waits until n more ticks were taken.
func (r *rig) ticks(n uint64) {
	r.t.Helper()
	until := r.Status().Ticks + n
	eventually(r.t, "ticks", func() bool { return r.Status().Ticks >= until })
}

func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(patience); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%s: not within %v", what, patience)
		}
	}
}

// history is what a reader makes of a log.
type history struct {
	t         testing.TB
	lives     map[uint64]*told
	lastEpoch uint64
	tables    int
}

// told is what a reader knows of a life.
type told struct {
	usage.Account
	samples []usage.Sample
	enters  []usage.State
	end     *usage.End
	found   []usage.Finding
}

// replay reads the log in a directory.
func replay(t testing.TB, dir string) *history {
	t.Helper()
	h := &history{t: t, lives: map[uint64]*told{}}
	var d record.Decoder
	err := wal.Walk(dir, func(e wal.Entry) error {
		if e.Lost != nil {
			t.Errorf("lost: %v", e.Lost)
			d.Lost()
			return nil
		}
		return d.Decode(e.Type, e.Body, h)
	})
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		t.Fatal(err)
	}
	return h
}

func (h *history) life(epoch uint64) *told {
	if h.lives[epoch] == nil {
		h.t.Fatalf("epoch %d did not begin", epoch)
	}
	return h.lives[epoch]
}

func (h *history) of(id types.VMID) *told {
	h.t.Helper()
	var last *told
	for _, l := range h.lives {
		if l.Life.Incarnation.VM == string(id) && (last == nil || last.Life.Incarnation.Epoch < l.Life.Incarnation.Epoch) {
			last = l
		}
	}
	if last == nil {
		h.t.Fatalf("the log has no life of %s", id)
	}
	return last
}

func (h *history) open() (all []usage.Account) {
	for _, l := range h.lives {
		if l.end == nil {
			all = append(all, l.Account)
		}
	}
	return all
}

func (h *history) Table(_ usage.Time, open []record.Open) {
	h.tables++
	there := map[uint64]bool{}
	for _, o := range open {
		epoch := o.Life.Incarnation.Epoch
		there[epoch] = true
		l := h.life(epoch)
		l.found = append(l.found, l.Meter.CatchUp(&o.Meter, nil, nil)...)
		if got := l.Meter.Totals; got != o.Meter.Totals {
			h.t.Errorf("epoch %d: the keyframe has %+v, and the ticks %+v", epoch, o.Meter.Totals, got)
		}
	}
	for epoch, l := range h.lives {
		if l.end == nil && !there[epoch] {
			h.t.Errorf("epoch %d is not in a keyframe, and the log has no end of it", epoch)
		}
	}
}

func (h *history) Begin(l usage.Life) {
	epoch := l.Incarnation.Epoch
	if epoch <= h.lastEpoch {
		h.t.Errorf("epoch %d after %d", epoch, h.lastEpoch)
	}
	h.lastEpoch = epoch
	h.lives[epoch] = &told{Account: usage.Account{Life: l, Meter: *l.Meter()}}
}

func (h *history) Enter(epoch uint64, at usage.Time, state usage.State) {
	l := h.life(epoch)
	l.Meter.Enter(at, state, nil)
	l.enters = append(l.enters, state)
}

func (h *history) Sample(epoch uint64, s usage.Sample) {
	l := h.life(epoch)
	if l.end != nil {
		h.t.Errorf("epoch %d has a tick after its end", epoch)
	}
	l.found = l.Meter.Add(s, nil, l.found)
	l.samples = append(l.samples, s)
}

func (h *history) Thin(uint64, usage.Leap) { h.t.Error("a record that nobody wrote") }

func (h *history) End(e usage.End) {
	l := h.life(e.Life.Incarnation.Epoch)
	if l.end != nil {
		h.t.Errorf("epoch %d ends twice", e.Life.Incarnation.Epoch)
	}
	l.found = append(l.found, l.Meter.Finish(e, nil)...)
	l.end = &e
	if l.Meter.Totals != e.Final {
		h.t.Errorf("epoch %d: its end has %+v, and the ticks %+v", e.Life.Incarnation.Epoch, e.Final, l.Meter.Totals)
	}
}

func (h *history) Signed(record.Signature) {}

func of(a usage.Amount, q usage.Quantity) uint64 { return a.Of[q].Lo }

// clock is a clock that a test sets.
type clock struct {
	mu      sync.Mutex
	now     usage.Time
	asleep  int64 // what CLOCK_BOOTTIME is ahead
	waited  bool
	changed chan struct{}
}

func newClock(mono int64) *clock {
	return &clock{now: usage.Time{Mono: mono, Wall: 1_790_000_000_000_000_000 + mono}, changed: make(chan struct{})}
}

func (c *clock) Now() usage.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

func (c *clock) Boottime() int64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now.Mono + c.asleep
}

func (c *clock) Wait(ctx context.Context, ns int64) bool {
	for {
		c.mu.Lock()
		there, changed := c.now.Mono >= ns, c.changed
		c.waited = true
		c.mu.Unlock()
		if there {
			return ctx.Err() == nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return false
		}
	}
}

func (c *clock) pass(d time.Duration) {
	c.set(func() {
		c.now.Mono += int64(d)
		c.now.Wall += int64(d)
	})
}

func (c *clock) set(change func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	change()
	close(c.changed)
	c.changed = make(chan struct{})
}

// ticking says that somebody waited for a tick.
func (c *clock) ticking() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.waited
}

// pass lets time pass up to the next tick that comes, and waits for it.
func (r *rig) pass(c *clock, d time.Duration) {
	r.t.Helper()
	was := r.Status().Ticks
	c.pass(d)
	eventually(r.t, "a tick", func() bool { return r.Status().Ticks > was })
}
