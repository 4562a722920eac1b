// Package api is the front door of metald: it serves vmprovisioner.v1.VmService over Connect, gRPC and gRPC-Web on
// one port, with health and, where asked for, reflection beside it.
//
// A request passes, in this order: limits of the HTTP edge (host name, size, time), the codec, the rules of the proto
// file, the handler. The handler translates (convert.go), asks the manager, translates back; errors become Connect
// codes in one table (errors.go). Nothing here decides what is legal for a VM: that is the manager's.
package api

import (
	"context"
	"io"
	"log/slog"
	"net/http"
	"time"

	"github.com/unkeyed/unkey/go/deploy/metald/internal/backend/types"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/console"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/metering/ledger"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/vm"
)

// VMs is what the API asks of the manager; vm.Manager has these methods and documents them.
type VMs interface {
	CreateOn(ctx context.Context, req vm.CreateRequest) (vm.Info, error)
	Boot(ctx context.Context, id types.VMID) (vm.Info, error)
	Pause(ctx context.Context, id types.VMID) (vm.Info, error)
	Resume(ctx context.Context, id types.VMID) (vm.Info, error)
	Shutdown(ctx context.Context, id types.VMID, force bool, timeout time.Duration) (vm.Info, error)
	Reboot(ctx context.Context, id types.VMID, force bool, timeout time.Duration) (vm.Info, error)
	Delete(ctx context.Context, id types.VMID, force bool) error
	Get(id types.VMID) (vm.Info, error)
	Usage(ctx context.Context, id types.VMID) (types.Usage, error)
	List(q vm.ListQuery) vm.ListPage
	Console(id types.VMID) (*console.Log, error)
}

// Ledger is what the API asks of metald's ledger; ledger.Ledger has these methods and documents them.
type Ledger interface {
	Usage(ctx context.Context, q ledger.Query) (ledger.Answer, error)
	Latest(vm string) (ledger.Now, bool)
	Export(ctx context.Context, w io.Writer, format string, from, to time.Time) (sum string, err error)
	Audit(ctx context.Context) (ledger.Audit, error)
}

// Config is what an API is made of. VMs and Log are required; for the rest the zero value is a default.
type Config struct {
	VMs VMs
	Log *slog.Logger

	Metrics func(io.Writer) error // writes what GET /metrics answers; nil: nothing
	Ledger  Ledger                // nil: usage is not metered, and nobody can ask for it

	Backend      string                        // that VMs are created on which ask for none
	Capabilities map[string]types.Capabilities // what of a config each backend can do, by its name

	// AllowedHosts are names besides localhost and the bound address under which clients may call.
	AllowedHosts []string
	// PublicPaths are host directories that error texts may name, such as the assets directory. Other paths
	// are shown only if the client sent them.
	PublicPaths []string

	Status            func() []ComponentStatus // asked by every readiness probe; nil: always ready
	Reflection        bool                     // serve grpc.reflection
	MaxConsoleStreams int                      // open at a time; 0: 128
	MaxConnections    int                      // open at a time; 0: 1024
	DrainTimeout      time.Duration            // how long a stopping API waits for running calls; 0: 10 s

	// Tests put their own here.
	console  consoleOpener // nil: VMs.Console
	timeouts timeouts
}

func (c Config) withDefaults() Config {
	if c.MaxConsoleStreams == 0 {
		c.MaxConsoleStreams = 128
	}
	if c.MaxConnections == 0 {
		c.MaxConnections = 1024
	}
	if c.DrainTimeout == 0 {
		c.DrainTimeout = 10 * time.Second
	}
	if c.timeouts == (timeouts{}) {
		c.timeouts = defaultTimeouts()
	}
	if c.console == nil {
		c.console = openConsole(c.VMs)
	}
	return c
}

// API serves the calls. It is an http.Handler; Run serves it on a listener.
type API struct {
	cfg       Config
	hosts     *hostList
	readiness *readiness
	handler   http.Handler
	running   *gate
	stopping  context.Context // ends when the API begins to stop
	beginStop context.CancelFunc
}

// New returns an API that is ready to serve. The error is a fault of the rules in the proto file.
func New(cfg Config) (*API, error) {
	cfg = cfg.withDefaults()
	check, err := newValidator()
	if err != nil {
		return nil, err
	}
	a := &API{cfg: cfg, hosts: newHostList(cfg.AllowedHosts), running: newGate()}
	a.stopping, a.beginStop = context.WithCancel(context.Background())
	a.readiness = &readiness{status: cfg.Status, stopping: a.stopping}
	service := &service{
		vms:      cfg.VMs,
		ledger:   cfg.Ledger,
		backend:  cfg.Backend,
		caps:     cfg.Capabilities,
		console:  cfg.console,
		streams:  make(chan struct{}, cfg.MaxConsoleStreams),
		stopping: a.stopping,
	}
	faults := &faults{vms: cfg.VMs, public: cfg.PublicPaths}
	service.faults = faults
	a.handler = a.edge(a.routes(service, rpcOptions(&interceptor{check: check, faults: faults})))
	return a, nil
}

// ServeHTTP serves one request.
func (a *API) ServeHTTP(w http.ResponseWriter, r *http.Request) { a.handler.ServeHTTP(w, r) }
