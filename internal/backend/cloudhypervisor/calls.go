package cloudhypervisor

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
)

// root is where the paths of the API begin.
const root = "/api/v1"

// call is one request to Cloud Hypervisor's API.
type call struct {
	Method string
	Path   string
	Body   []byte // JSON; nil for a call that takes none
	OK     []int  // the statuses of success
	Slow   bool   // it takes as long as the guest is big
}

func (c call) String() string { return c.Method + " " + c.Path }

// What the API answers, as far as metald asks.
type (
	// pong is the answer to a ping.
	pong struct {
		BuildVersion string   `json:"build_version"` // "v53.0.0", "v53.0-12-gabc" for a build that is no release
		Version      string   `json:"version"`       // "53.0.0"
		PID          int64    `json:"pid"`
		Features     []string `json:"features"` // of the build: "kvm", "io_uring"
	}
	// vmInfo is what Cloud Hypervisor knows of its VM. MemoryActualSize is what the guest may use, in bytes: a bound,
	// and no measure of use.
	vmInfo struct {
		Config           json.RawMessage `json:"config"`
		State            string          `json:"state"`
		MemoryActualSize uint64          `json:"memory_actual_size"`
	}
	// counters are the numbers of each device by its id, which begin at 0 with every boot of the guest. They are whole
	// numbers of 64 bits, and the latencies among them begin at the greatest of those.
	counters map[string]map[string]uint64
)

// The states of vmInfo. A VM whose guest ended, by itself or by vm.shutdown, is Created again as long as its config is
// there; stateShutdown is not seen.
const (
	stateCreated    = "Created"
	stateRunning    = "Running"
	statePaused     = "Paused"
	stateShutdown   = "Shutdown"
	stateBreakPoint = "BreakPoint"
)

func get(path string) call {
	return call{Method: http.MethodGet, Path: path, OK: []int{http.StatusOK}}
}

func put(path string) call {
	return call{Method: http.MethodPut, Path: path, OK: []int{http.StatusNoContent}}
}

func (c call) with(body any) call {
	b, err := json.Marshal(body)
	if err != nil {
		panic(err) // structs of strings, numbers and booleans
	}
	c.Body = b
	return c
}

func (c call) slow() call {
	c.Slow = true
	return c
}

func (c call) orOK() call {
	c.OK = append(c.OK, http.StatusOK)
	return c
}

func putCreate(config vmConfig) call { return put("/vm.create").with(config) }

// putAddNet answers 200 and where the device is for a VM that runs, and 204 for one that is yet to boot.
func putAddNet(n netConfig) call { return put("/vm.add-net").with(n).orOK() }

// ping asks who is there. It is how a new process says that it is ready.
func (c *client) ping(ctx context.Context) (pong, error) {
	var p pong
	if err := c.ask(ctx, get("/vmm.ping"), &p); err != nil {
		return pong{}, err
	}
	return p, nil
}

// info asks for the state of the VM. It is refused where there is no VM.
func (c *client) info(ctx context.Context) (vmInfo, error) {
	var i vmInfo
	if err := c.ask(ctx, get("/vm.info"), &i); err != nil {
		return vmInfo{}, err
	}
	if known := []string{stateCreated, stateRunning, statePaused, stateShutdown, stateBreakPoint}; !slices.Contains(known, i.State) {
		return vmInfo{}, fmt.Errorf("GET /vm.info: %w: state %q", errReply, oneLine(i.State))
	}
	return i, nil
}

// counters asks for the numbers of the devices. It is refused unless the guest runs or is paused.
func (c *client) counters(ctx context.Context) (counters, error) {
	var n counters
	if err := c.ask(ctx, get("/vm.counters"), &n); err != nil {
		return nil, err
	}
	return n, nil
}

func (c *client) ask(ctx context.Context, cl call, answer any) error {
	body, err := c.do(ctx, cl)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(body, answer); err != nil {
		return fmt.Errorf("%s: %w: %w", cl, errReply, err)
	}
	return nil
}

func (c *client) tell(ctx context.Context, cl call) error {
	_, err := c.do(ctx, cl)
	return err
}

// create hands over the config of the VM. Cloud Hypervisor keeps it and looks at it at the boot; what it opens now are
// the sockets of the consoles. After an error the config may be kept nevertheless, until deleteVM.
func (c *client) create(ctx context.Context, config vmConfig) error {
	return c.tell(ctx, putCreate(config).slow())
}

// boot builds the VM and starts its guest. After an error the VM may stand half built, until deleteVM.
func (c *client) boot(ctx context.Context) error { return c.tell(ctx, put("/vm.boot").slow()) }

func (c *client) pause(ctx context.Context) error  { return c.tell(ctx, put("/vm.pause").slow()) }
func (c *client) resume(ctx context.Context) error { return c.tell(ctx, put("/vm.resume").slow()) }

// powerButton presses the button of ACPI; whether the guest cares is for the guest.
func (c *client) powerButton(ctx context.Context) error {
	return c.tell(ctx, put("/vm.power-button"))
}

// shutdown ends the guest without asking it. The config stays.
func (c *client) shutdown(ctx context.Context) error { return c.tell(ctx, put("/vm.shutdown").slow()) }

// deleteVM ends the guest if there is one, and forgets the config. It is well where there is no VM.
func (c *client) deleteVM(ctx context.Context) error { return c.tell(ctx, put("/vm.delete").slow()) }

// shutdownVMM does as deleteVM, and then the process ends. Its success is 200 up to version 53 and 204 in the
// description.
func (c *client) shutdownVMM(ctx context.Context) error {
	return c.tell(ctx, put("/vmm.shutdown").slow().orOK())
}
