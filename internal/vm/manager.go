package vm

import (
	"context"
	"crypto/rand"
	"fmt"
	"log/slog"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/unkeyed/unkey/go/deploy/metald/internal/backend/types"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/console"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/host/disk"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/vm/store"
)

// Config is what a Manager is made of.
type Config struct {
	Backend      types.Backend // of VMs that ask for none; found usable before
	Others       []Other       // backends that VMs may ask for
	Strangers    Strangers     // nil: VMMs of backends that are none of these are left alone
	Store        store.Store
	Metering     Metering // nil: nobody bills by it
	StateDir     string   // VMs live below vms/ and run/ in it
	RunDir       string   // of the VMMs' sockets, FIFOs and counters, which no restart of the host needs; "" is run/ in StateDir
	Roots        disk.Roots
	MaxVMs       int
	UIDBase      uint32 // VMMs run as UIDBase + slot; 0: as metald
	GIDBase      uint32 // and in the group GIDBase + slot; 0: UIDBase
	ConsoleBytes int64  // of console output kept per VM
	Log          *slog.Logger
	Now          func() time.Time
}

// Manager holds the VMs of this host.
type Manager struct {
	cfg      Config
	fleet    fleet
	launches chan struct{} // bounds how many VMM processes are being made at once; none waits until another is ready
	runners  sync.WaitGroup
	opCtx    context.Context // of every operation; ends when Run gives up waiting for them
	cancel   context.CancelFunc
	stopping chan struct{} // closed when Run parks

	mu     sync.Mutex
	byID   map[types.VMID]*entry
	seq    uint64
	slots  slots
	claims claims
	parked bool

	index index
}

// Bounds on how long an operation on a VMM may take. A VMM that is slower is reported, and killed where it was new.
const (
	launchTimeout = 60 * time.Second
	verbTimeout   = 20 * time.Second
	lookTimeout   = 5 * time.Second // for a VMM to say how it is, and to be adopted
	readyTimeout  = 5 * time.Second // for the log of usage to have that a VMM is metered
	parkTimeout   = 10 * time.Second
	retryAfter    = 2 * time.Second // of what did not work and must
	askEvery      = 2 * time.Second
	maxLaunches   = 32
)

// New returns a Manager that knows no VM yet; Restore reads them.
func New(cfg Config) *Manager {
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Metering == nil {
		cfg.Metering = unmetered{}
	}
	if cfg.RunDir == "" {
		cfg.RunDir = filepath.Join(cfg.StateDir, "run")
	}
	ctx, cancel := context.WithCancel(context.Background())
	return &Manager{
		cfg:      cfg,
		fleet:    newFleet(cfg),
		launches: make(chan struct{}, maxLaunches),
		opCtx:    ctx,
		cancel:   cancel,
		stopping: make(chan struct{}),
		byID:     map[types.VMID]*entry{},
		claims:   claims{},
	}
}

// Run owns the runners until ctx ends. Then it parks them: no new operation starts, those under way get a few
// seconds, and every VMM is let go and runs on.
func (m *Manager) Run(ctx context.Context) error {
	<-ctx.Done()
	m.mu.Lock()
	m.parked = true
	entries := make([]*entry, 0, len(m.byID))
	for _, e := range m.byID {
		entries = append(entries, e)
	}
	m.mu.Unlock()
	close(m.stopping)

	timer := time.AfterFunc(parkTimeout, m.cancel)
	m.runners.Wait()
	timer.Stop()
	m.cancel()
	for _, e := range entries {
		e.park()
	}
	return nil
}

// start runs f as a goroutine that Run waits for. It reports false once Run has parked.
func (m *Manager) start(f func()) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.parked {
		return false
	}
	m.runners.Go(f)
	return true
}

// Get returns what is known of a VM.
func (m *Manager) Get(id types.VMID) (Info, error) {
	e, err := m.lookup(id)
	if err != nil {
		return Info{}, err
	}
	return *e.snapshot.Load(), nil
}

// List returns a page of VMs.
func (m *Manager) List(q ListQuery) ListPage { return m.index.page(q) }

// Console returns the console log of a VM; it outlives the VM's incarnations and ends with its deletion.
func (m *Manager) Console(id types.VMID) (*console.Log, error) {
	e, err := m.lookup(id)
	if err != nil {
		return nil, err
	}
	return e.console, nil
}

// lookup finds a VM that may be seen: not one that is still being created or already deleted.
func (m *Manager) lookup(id types.VMID) (*entry, error) {
	m.mu.Lock()
	e, ok := m.byID[id]
	m.mu.Unlock()
	if !ok || e.snapshot.Load() == nil || e.hidden.Load() {
		return nil, types.Errorf(types.KindNotFound, "there is no VM %q on this host", id)
	}
	return e, nil
}

func (m *Manager) vmDir(id types.VMID) string {
	return filepath.Join(m.cfg.StateDir, "vms", string(id))
}

// runDir is where a VMM of one incarnation has its sockets. A VM id has no dot in it.
func (m *Manager) runDir(id types.VMID, incarnation uint64) string {
	return filepath.Join(m.cfg.RunDir, runName(id, incarnation))
}

// rootDir is where a VMM of one incarnation finds its files, which are links: on the file system of the state directory.
// "" is in its run directory, which is there too.
func (m *Manager) rootDir(id types.VMID, incarnation uint64) string {
	if beside := m.besideState(); beside != m.cfg.RunDir {
		return filepath.Join(beside, runName(id, incarnation))
	}
	return ""
}

func (m *Manager) besideState() string { return filepath.Join(m.cfg.StateDir, "run") }

func runName(id types.VMID, incarnation uint64) string { return fmt.Sprintf("%s.%d", id, incarnation) }

// randomID makes an id for a caller who sent none: 128 random bits, never the clock.
func randomID() types.VMID { return types.VMID("vm-" + strings.ToLower(rand.Text())) }
