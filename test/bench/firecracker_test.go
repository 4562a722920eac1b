package bench

import (
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	pb "github.com/unkeyed/unkey/go/deploy/metald/gen/vmprovisioner/v1"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/backend/stubvmm"
	"github.com/unkeyed/unkey/go/deploy/metald/test/harness"
)

// firecrackerSite is what both sides start VMMs from: the stand-ins for Firecracker and its jailer.
type firecrackerSite struct {
	firecracker, jailer string
	assets, kernel      string
	runtime             string // of what VMMs need only while they run
	jailed              bool
}

// newFirecrackerSite builds the stand-ins. A Firecracker needs as long as start from its execution to its socket,
// beyond what a small program needs anyhow.
func newFirecrackerSite(b *testing.B, jailed bool, start time.Duration) firecrackerSite {
	b.Helper()
	if os.Geteuid() != 0 {
		b.Skip("VMMs run as users of their own, which takes root")
	}
	assets, err := os.MkdirTemp("", "assets")
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { os.RemoveAll(assets) })
	// A kernel named vmlinux would be tried under KVM first.
	s := firecrackerSite{
		firecracker: stubvmm.BuildFirecracker(b), jailer: stubvmm.BuildJailer(b),
		assets: assets, kernel: filepath.Join(assets, "kernel"), jailed: jailed,
		runtime: runtimeDir(b),
	}
	knobs := fmt.Sprintf("stub.start=%s\n", start)
	for path, content := range map[string][]byte{s.kernel: stubvmm.Kernel(), s.firecracker + ".knobs": []byte(knobs)} {
		if err := os.WriteFile(path, content, 0o644); err != nil {
			b.Fatal(err)
		}
	}
	if err := os.Chmod(assets, 0o755); err != nil {
		b.Fatal(err)
	}
	return s
}

// daemon starts a metald.
func (s firecrackerSite) daemon(b *testing.B) *harness.Daemon {
	b.Helper()
	var under []string
	if !s.jailed {
		under = harness.OpenKVM(b)
	}
	return harness.Start(b, harness.Options{AssetsDir: s.assets, Under: under, Env: []string{
		"UNKEY_METALD_BACKEND=firecracker", "UNKEY_METALD_MAX_VMS=20000", "UNKEY_METALD_LOG_LEVEL=warn",
		"UNKEY_METALD_FIRECRACKER_BINARY=" + s.firecracker, "UNKEY_METALD_JAILER_BINARY=" + s.jailer,
		fmt.Sprintf("UNKEY_METALD_JAILER_ENABLED=%t", s.jailed), "UNKEY_METALD_RUNTIME_DIR=" + s.runtime,
	}})
}

// floor makes the floor, after a look at how a VM of d's is.
func (s firecrackerSite) floor(b *testing.B, d *harness.Daemon) *rawFirecracker {
	b.Helper()
	createBoot(b, d, s.request("like-this"))
	raw := newRawFirecracker(b, s, get(b, d.Client, "like-this").BackendInfo["pid"])
	deleteVM(b, d, "like-this")
	return raw
}

// request asks for the smallest VM there is.
func (s firecrackerSite) request(id string) *pb.CreateVmRequest {
	r := diskless(s.assets, id, "")
	r.Config.Boot.KernelPath = s.kernel
	r.Config.Console = &pb.ConsoleConfig{Enabled: true}
	return r
}

// firecrackerStart is how long Firecracker itself needs until its socket is there.
const firecrackerStart = 12 * time.Millisecond

// bareAndJailed runs a benchmark without and with the jailer.
func bareAndJailed(b *testing.B, start time.Duration, run func(b *testing.B, s firecrackerSite, d *harness.Daemon, raw *rawFirecracker)) {
	for _, jailed := range []bool{false, true} {
		b.Run(map[bool]string{false: "bare", true: "jailed"}[jailed], func(b *testing.B) {
			s := newFirecrackerSite(b, jailed, start)
			d := s.daemon(b)
			run(b, s, d, s.floor(b, d))
		})
	}
}

// BenchmarkFirecrackerStart12ms is B1 for Firecracker.
func BenchmarkFirecrackerStart12ms(b *testing.B) {
	bareAndJailed(b, firecrackerStart, firecrackerCreateBoot)
}

// BenchmarkFirecrackerStart is B1b for Firecracker.
func BenchmarkFirecrackerStart(b *testing.B) { bareAndJailed(b, 0, firecrackerCreateBoot) }

func firecrackerCreateBoot(b *testing.B, s firecrackerSite, d *harness.Daemon, raw *rawFirecracker) {
	n := 0
	pairs(b, 150, func() time.Duration {
		n++
		request := s.request(fmt.Sprintf("b-%d", n))
		took := timed(func() { createBoot(b, d, request) })
		deleteVM(b, d, request.VmId)
		return took
	}, func() time.Duration {
		var m *rawMachine
		took := timed(func() { m = raw.start() })
		raw.end(m)
		return took
	})
}

const parallelClients = 16

// BenchmarkFirecrackerParallel is B3: VMs per second, of 200 that 16 clients create and boot, over those of the floor
// with as many. Guests that run are metered on both sides.
func BenchmarkFirecrackerParallel(b *testing.B) {
	const vms = 200
	bareAndJailed(b, firecrackerStart, func(b *testing.B, s firecrackerSite, d *harness.Daemon, raw *rawFirecracker) {
		raw.metered = true
		round := 0
		ours := func() time.Duration {
			round++
			return createMany(b, s, d, round, vms)
		}
		floor := func() time.Duration { return rawMany(raw, vms) }
		rates(b, pairsOf(b, 5, ours, floor), vms, vms)
	})
}

// BenchmarkFirecrackerOldWay is B4: VMs per second of 16 clients, over those of a loop as the earlier metald had it: a
// lock around all of a start, in which a ticker of 100 ms looks for the socket. The earlier one started a curl for each
// look and each call, and this loop connects. The VMM starts at once, so that what is compared is the two ways.
func BenchmarkFirecrackerOldWay(b *testing.B) {
	const vms, oldVMs = 200, 32
	bareAndJailed(b, 0, func(b *testing.B, s firecrackerSite, d *harness.Daemon, raw *rawFirecracker) {
		raw.ready = byTicker(b)
		var lock sync.Mutex
		round := 0
		ours := func() time.Duration {
			round++
			return createMany(b, s, d, round, vms)
		}
		old := func() time.Duration {
			return many(oldVMs, func(int) func() {
				lock.Lock()
				defer lock.Unlock()
				m := raw.start()
				return func() { raw.end(m) }
			})
		}
		rates(b, pairsOf(b, 3, ours, old), vms, oldVMs)
	})
}

func createMany(b *testing.B, s firecrackerSite, d *harness.Daemon, round, vms int) time.Duration {
	return many(vms, func(i int) func() {
		id := fmt.Sprintf("p-%d-%d", round, i)
		createBoot(b, d, s.request(id))
		return func() { deleteVM(b, d, id) }
	})
}

func rawMany(raw *rawFirecracker, vms int) time.Duration {
	return many(vms, func(int) func() {
		m := raw.start()
		return func() { raw.end(m) }
	})
}

// many makes n of something, parallelClients at a time, and returns how long it took. What make returned is called
// afterwards, and not counted: nor is what a host does later for what was removed.
func many(n int, make func(i int) (end func())) time.Duration {
	var all errgroup.Group
	all.SetLimit(parallelClients)
	var mu sync.Mutex
	var ends []func()
	rest()
	took := timed(func() {
		for i := range n {
			all.Go(func() error {
				end := make(i)
				mu.Lock()
				defer mu.Unlock()
				ends = append(ends, end)
				return nil
			})
		}
		_ = all.Wait() // none returns an error
	})
	for _, end := range ends {
		all.Go(func() error { end(); return nil })
	}
	_ = all.Wait()
	return took
}

// rates reports how many VMs a second each side made, and the subject's over the floor's.
func rates(b *testing.B, took sides, vms, floorVMs int) {
	subject := float64(vms) / median(took.subject).Seconds()
	floor := float64(floorVMs) / median(took.floor).Seconds()
	b.ReportMetric(0, "ns/op")
	b.ReportMetric(subject, "subject-VM/s")
	b.ReportMetric(floor, "floor-VM/s")
	b.ReportMetric(subject/floor, "ratio")
}
