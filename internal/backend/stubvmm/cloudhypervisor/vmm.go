package cloudhypervisor

import (
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/unkeyed/unkey/go/deploy/metald/internal/backend/stubvmm/rust"
)

// The states that are told. Whoever asks never sees Shutdown: the VM is gone by then.
const (
	created = "Created"
	running = "Running"
	paused  = "Paused"
)

// vmm is the process: what it is asked is done one after another, under its lock.
type vmm struct {
	knobs      knobs
	log        *logger
	events     *events
	noShutdown bool
	strict     bool     // forbidden system calls end it
	over       chan int // the code of the end

	mu       sync.Mutex // guards all below
	changed  sync.Cond  // a machine's state, presses or end
	ended    bool
	config   *vmConfig
	lines    *lines // the serial port and the console; nil while they are not open
	machine  *machine
	lost     bool // the thread that does the work has died
	attached []int
}

func newVMM(k knobs, l *logger) *vmm {
	v := &vmm{
		knobs: k, log: l, over: make(chan int, 1),
		events: &events{began: l.began, fd: -1, silent: k.Silent},
	}
	v.changed.L = &v.mu
	return v
}

// answer answers one request. If it is not whole the connection ends behind it.
func (v *vmm) answer(r request) (out []byte, whole bool) {
	if v.knobs.Mute != "" && v.knobs.Mute == r.Method+":"+trimRoot(r.Path) {
		forever() // the one thread of the API never gets to anything else
	}
	time.Sleep(v.knobs.Slow)
	resp := v.respond(r)
	b := resp.bytes()
	switch {
	case v.knobs.Garbage:
		return []byte("220 mail.example.com ESMTP\r\n"), false
	case v.knobs.Half:
		return b[:len(b)/2], false
	}
	return b, true
}

func (v *vmm) respond(r request) response {
	v.log.log(levelInfo, "http-server", "API request: %s %s", r.Method, r.Path)
	v.mu.Lock()
	defer v.mu.Unlock()
	resp, f := v.route(r)
	if f != nil {
		v.log.log(levelInfo, "http-server", "HTTP API error response: %s", f.chain)
		return f.response(v.knobs.Version)
	}
	return resp
}

// panics is what a panic of the thread that does the work looks like to who asked for it.
func (v *vmm) panics(why string) *fault {
	v.lost = true
	v.log.log(levelError, "vmm", "panicked: %s", why)
	v.finish(exitError)
	return says("Error from API", "API response receive error", "receiving on a closed channel")
}

// finish lets the process end with a code, once the answer is written.
func (v *vmm) finish(code int) {
	if v.ended {
		return
	}
	v.ended = true
	v.over <- code
}

// end is the orderly end of everything. It is called with mu held.
func (v *vmm) end() {
	v.forget()
	v.events.say("vmm", "shutdown", nil)
	v.finish(exitOK)
}

// forget ends the VM if there is one and forgets its config.
func (v *vmm) forget() {
	if v.config == nil {
		return
	}
	if v.machine != nil {
		v.stop()
	}
	v.config = nil
	v.closeLines()
	closeAll(v.attached)
	v.attached = nil
	v.events.say("vm", "deleted", nil)
}

// stop ends the VM and keeps its config.
func (v *vmm) stop() {
	v.drop()
	v.events.say("vm", "shutdown", nil)
}

// drop takes the VM away, and what it has open.
func (v *vmm) drop() {
	m := v.machine
	v.machine = nil
	m.gone = true
	m.close()
	v.closeLines()
	v.changed.Broadcast()
}

func (v *vmm) closeLines() {
	if v.lines != nil {
		v.lines.close()
		v.lines = nil
	}
}

func (v *vmm) ping() any {
	build, version := v.knobs.versions()
	return struct {
		BuildVersion string   `json:"build_version"`
		Version      string   `json:"version"`
		PID          int      `json:"pid"`
		Features     []string `json:"features"`
	}{build, version, os.Getpid(), []string{"io_uring", "kvm"}}
}

// forbidden is a system call that the thread of the API has no leave for.
func (v *vmm) forbidden() {
	if v.strict {
		killedBy(unix.SIGSYS)
	}
}

func decode(body []byte, into any) *fault {
	if err := rust.Decode(body, into); err != nil {
		return says("Failed to deserialize JSON", err.Error()).as(badRequest)
	}
	return nil
}
