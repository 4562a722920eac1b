package fake

import (
	"io"
	"sync"
	"time"

	"github.com/unkeyed/unkey/go/deploy/metald/internal/backend/types"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/guest"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/vm/lifecycle"
)

// process is one fake VMM and the guest in it.
type process struct {
	host   *Host
	id     types.ProcessIdentity
	vm     types.VMID
	spec   types.Spec
	disks  []string
	runDir string
	opts   guest.Options
	ended  chan struct{} // closed when it has ended, whoever watches

	saying sync.Mutex // held while the guest writes to the console

	mu       sync.Mutex
	state    lifecycle.State
	mute     bool
	console  io.Writer // nil while nobody reads
	attached *machine
	exit     types.Exit
	timers   []*time.Timer
	held     []func() // what the guest would have done while it was paused
	ran      time.Duration
	since    time.Time // when it last began to run
	written  int64
	writes   int64
}

func newProcess(h *Host, req types.CreateRequest) *process {
	opts, _ := guest.ParseOptions(req.Spec.Boot.KernelArgs) // what is wrong the guest says on its console
	return &process{
		host: h, vm: req.ID, spec: req.Spec, disks: req.Disks, runDir: req.RunDir, opts: opts,
		ended: make(chan struct{}), state: lifecycle.Created, console: req.Console,
	}
}

// move takes the guest from one state to another; false if it is not in that state.
func (p *process) move(from, to lifecycle.State) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.state != from {
		return false
	}
	if from == lifecycle.Running {
		p.ran += time.Since(p.since)
	}
	if to == lifecycle.Running {
		p.since = time.Now()
		for _, f := range p.held {
			p.timers = append(p.timers, time.AfterFunc(0, f))
		}
		p.held = nil
	}
	p.state = to
	return true
}

// after has the guest do f later, on a goroutine of its own, and not while it is paused.
func (p *process) after(d time.Duration, f func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.state == lifecycle.Shutdown {
		return
	}
	p.timers = append(p.timers, time.AfterFunc(d, func() { p.whileRunning(f) }))
}

func (p *process) whileRunning(f func()) {
	p.mu.Lock()
	if p.state == lifecycle.Paused {
		p.held = append(p.held, func() { p.whileRunning(f) })
	}
	running := p.state == lifecycle.Running
	p.mu.Unlock()
	if running {
		f()
	}
}

// end ends the process; only the first of several counts.
func (p *process) end(exit types.Exit) {
	p.mu.Lock()
	if p.state == lifecycle.Shutdown {
		p.mu.Unlock()
		return
	}
	if p.state == lifecycle.Running {
		p.ran += time.Since(p.since)
	}
	p.state, p.exit, p.console = lifecycle.Shutdown, exit, nil
	for _, t := range p.timers {
		t.Stop()
	}
	p.mu.Unlock()
	p.host.remove(p)
	p.finishSaying() // Exited says that everything was read
	close(p.ended)
	p.mu.Lock()
	m := p.attached
	if m != nil {
		close(m.exited)
	}
	p.mu.Unlock()
	if m != nil && m.told != nil {
		m.told()
	}
}

// finishSaying waits for a write to the console that is under way.
func (p *process) finishSaying() {
	p.saying.Lock()
	defer p.saying.Unlock()
}

func (p *process) isMute() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.mute
}

func (p *process) current() lifecycle.State {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.state
}

// usage is what the process used so far, or in all. A fake has no memory that could be measured.
func (p *process) usage() types.Usage {
	cpu := p.cpuTime()
	usage := types.Usage{At: time.Now(), CPUTime: &cpu, Disks: map[string]types.DiskUsage{}}
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, d := range p.spec.Disks {
		usage.Disks[d.ID] = types.DiskUsage{WriteBytes: p.written, WriteOps: p.writes}
	}
	return usage
}

// cpuTime is what a guest that never idles would use.
func (p *process) cpuTime() time.Duration {
	p.mu.Lock()
	defer p.mu.Unlock()
	d := 10*time.Millisecond + p.ran
	if p.state == lifecycle.Running {
		d += time.Since(p.since)
	}
	return d
}
