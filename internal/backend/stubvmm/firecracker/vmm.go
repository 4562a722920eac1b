package firecracker

import (
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/unkeyed/unkey/go/deploy/metald/internal/guest"
)

// Version is what the stand-in claims to be.
const Version = "1.16.1"

// The states that are told.
const (
	notStarted = "Not started"
	running    = "Running"
	paused     = "Paused"
)

// vmm is the machine. Whatever it is asked is done one after another, under its lock.
type vmm struct {
	id      string
	pci     bool
	bare    bool // it has a kernel and nothing else
	knobs   knobs
	log     *logger
	metrics *metrics
	kill    int // an eventfd, see end
	mmdsMax int

	mu       sync.Mutex // guards all below
	changed  sync.Cond  // state or keys
	state    string
	bootPath bool // something was set that a snapshot would bring
	keys     int  // in the keyboard's buffer: Ctrl-Alt-Del, once or more, and not read yet
	halted   bool // the guest
	over     bool
	exit     int
	unsaid   bool // the first line of metrics is not written
	missed   bool // the minute passed while the machine was paused

	machine machineConfig
	boot    *bootSourceConfig
	cmdline string // with what was added at the start
	kernel  int    // a descriptor
	wishes  guest.Options
	console *console // nil without one
	serial  serialConfig

	drives   []drive
	networks []network
	entropy  *entropyDeviceConfig
	vsock    *vsockDeviceConfig
	balloon  *balloonDeviceConfig
	hotplug  *memoryHotplugConfig
	pmem     []pmemConfig
	mmds     *mmdsConfig
	mmdsData any
	cpu      any
}

func newVMM(id string, k knobs) (*vmm, error) {
	kill, err := unix.Eventfd(0, unix.EFD_NONBLOCK|unix.EFD_CLOEXEC)
	if err != nil {
		return nil, err
	}
	m := newMetrics()
	v := &vmm{
		id: id, knobs: k, metrics: m, log: newLogger(id, m), kill: kill, state: notStarted,
		machine: machineConfig{VCPUCount: 1, MemSizeMiB: 128, HugePages: "None"},
	}
	v.changed.L = &v.mu
	return v, nil
}

// answer answers one request. If it is not whole the connection ends behind it.
func (v *vmm) answer(r request) (out []byte, whole bool) {
	if v.knobs.muted(r) {
		forever() // the one thread of the API never gets to anything else
	}
	time.Sleep(v.knobs.Slow)
	resp := v.respond(r)
	switch {
	case v.knobs.Garbage:
		return []byte("220 mail.example.com ESMTP\r\n"), false
	case v.knobs.Half:
		b := resp.bytes()
		return b[:len(b)/2], false
	}
	return resp.bytes(), true
}

func (v *vmm) respond(r request) response {
	v.logRequest(r)
	began := time.Now()
	v.mu.Lock()
	defer v.mu.Unlock()
	c, err := v.route(r)
	if err != nil {
		f := err.(*fault)
		debug := f.Debug
		if debug == "" {
			debug = "Generic(BadRequest, \"" + f.Message + "\")"
		}
		v.log.log(levelError, apiThread, "%s", debug)
		return f.response()
	}
	out, err := c.do()
	if err == nil {
		v.timed(r, began)
	}
	return v.outcome(c, out, err)
}

func (v *vmm) outcome(c call, out any, err error) response {
	var resp response
	switch f, _ := err.(*fault); {
	case err != nil:
		v.log.log(levelError, apiThread, "Received Error. Status code: %s. Message: %s", statusText(f.Status), f.Message)
		resp = f.response()
	case out == nil:
		v.log.log(levelInfo, apiThread, "The request was executed successfully. Status code: 204 No Content.")
		resp = response{Status: 204}
	default:
		v.log.log(levelInfo, apiThread, "The request was executed successfully. Status code: 200 OK.")
		resp = response{Status: 200, Body: toJSON(out)}
	}
	if c.deprecated != "" {
		v.log.log(levelWarn, apiThread, "%s", c.deprecated)
		resp.Deprecated = true
	}
	return resp
}

func statusText(status int) string {
	if status == 413 {
		return "413 Payload too large"
	}
	return "400 Bad Request"
}

func (v *vmm) logRequest(r request) {
	if r.Body == nil || r.Path == "/mmds" {
		v.log.log(levelInfo, apiThread, "The API server received a %s request on %q.", camel(r.Method), r.Path)
		return
	}
	v.log.log(levelInfo, apiThread, "The API server received a %s request on %q with body %q.", camel(r.Method), r.Path, r.Body)
}

// timed stores how long the calls took that are measured.
func (v *vmm) timed(r request, began time.Time) {
	us := uint64(time.Since(began).Microseconds())
	switch {
	case r.Method == "PATCH" && strings.HasPrefix(r.Path, "/vm") && v.state == paused:
		v.metrics.set("latencies_us.pause_vm", us)
		v.metrics.set("latencies_us.vmm_pause_vm", us)
	case r.Method == "PATCH" && strings.HasPrefix(r.Path, "/vm"):
		v.metrics.set("latencies_us.resume_vm", us)
		v.metrics.set("latencies_us.vmm_resume_vm", us)
	}
}

// preBoot refuses what is not possible any more, postBoot what is not possible yet.
func (v *vmm) preBoot() error {
	if v.state != notStarted {
		return faultf("The requested operation is not supported after starting the microVM.")
	}
	return nil
}

func (v *vmm) postBoot() error {
	if v.state == notStarted {
		return faultf("The requested operation is not supported before starting the microVM.")
	}
	return nil
}

func (v *vmm) instanceInfo() (any, error) {
	return struct {
		ID         string `json:"id"`
		State      string `json:"state"`
		VMMVersion string `json:"vmm_version"`
		AppName    string `json:"app_name"`
	}{v.id, v.state, Version, "Firecracker"}, nil
}

func (v *vmm) version() (any, error) {
	return map[string]string{"firecracker_version": Version}, nil
}

// end ends the process with a code. It is called with mu held.
func (v *vmm) end(code int) {
	if v.over || v.knobs.Hold {
		return
	}
	v.over, v.exit = true, code
	_, _ = unix.Write(v.kill, []byte{1, 0, 0, 0, 0, 0, 0, 0})
}
