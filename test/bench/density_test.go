package bench

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/unkeyed/unkey/go/deploy/metald/internal/backend/fake"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/backend/qemu"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/backend/stubvmm"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/backend/types"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/console"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/host/disk"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/vm"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/vm/store"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/vmmprocess"
	"github.com/unkeyed/unkey/go/deploy/metald/test/harness"
)

// core is a manager in this process, so that its heap and goroutines can be counted.
type core struct {
	b       *testing.B
	state   string
	assets  string
	records store.Store
	backend types.Backend
	manager *vm.Manager
	stop    func()
}

// newCore starts a manager over a backend. A core over the same state takes over what the one before left.
func newCore(b *testing.B, state, assets string, records store.Store, backend types.Backend) *core {
	b.Helper()
	c := &core{b: b, state: state, assets: assets, records: records, backend: backend}
	c.manager = vm.New(vm.Config{
		Backend: backend, Store: records, StateDir: state, Roots: disk.Roots{Assets: assets},
		MaxVMs: 20000, ConsoleBytes: 1 << 20, Log: slog.New(slog.DiscardHandler),
	})
	return c
}

// restore takes over the VMs and starts the manager; it returns how long the taking over took.
func (c *core) restore() time.Duration {
	c.b.Helper()
	took := timed(func() {
		if err := c.manager.Restore(context.Background()); err != nil {
			c.b.Fatal(err)
		}
	})
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- c.manager.Run(ctx) }()
	c.stop = func() {
		cancel()
		if err := <-done; err != nil {
			c.b.Error(err)
		}
	}
	return took
}

// fill makes and boots n VMs.
func (c *core) fill(n int) {
	c.b.Helper()
	var all errgroup.Group
	all.SetLimit(16)
	for i := range n {
		all.Go(func() error {
			id := types.VMID(fmt.Sprintf("vm-%d", i))
			spec := types.Spec{
				CPU: types.CPU{Count: 1}, Memory: types.Memory{SizeBytes: 128 << 20},
				Boot:     types.Boot{KernelPath: filepath.Join(c.assets, "vmlinux")},
				Metadata: map[string]string{"tenant": "bench", "purpose": "density"},
			}
			if _, err := c.manager.Create(context.Background(), id, spec); err != nil {
				return err
			}
			_, err := c.manager.Boot(context.Background(), id)
			return err
		})
	}
	if err := all.Wait(); err != nil {
		c.b.Fatal(err)
	}
}

// empty deletes every VM.
func (c *core) empty() {
	c.b.Helper()
	var all errgroup.Group
	all.SetLimit(16)
	for _, info := range c.manager.List(vm.ListQuery{Limit: 20000}).VMs {
		all.Go(func() error { return c.manager.Delete(context.Background(), info.ID, true) })
	}
	if err := all.Wait(); err != nil {
		c.b.Fatal(err)
	}
}

// stubHost is what a QEMU backend over the stand-in needs.
type stubHost struct {
	supervisor *vmmprocess.Supervisor
	drainer    *console.Drainer
	backend    *qemu.Backend
	stop       func()
}

func newStubHost(b *testing.B, binary string) *stubHost {
	b.Helper()
	log := slog.New(slog.DiscardHandler)
	supervisor, err := vmmprocess.New(log)
	if err != nil {
		b.Fatal(err)
	}
	drainer, err := console.NewDrainer()
	if err != nil {
		b.Fatal(err)
	}
	backend, err := qemu.New(qemu.Config{Binary: binary, Accel: "tcg", Supervisor: supervisor, Drainer: drainer, Log: log})
	if err != nil {
		b.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var both errgroup.Group
	both.Go(func() error { return supervisor.Run(ctx) })
	both.Go(func() error { return drainer.Run(ctx) })
	return &stubHost{supervisor: supervisor, drainer: drainer, backend: backend, stop: func() {
		cancel()
		if err := both.Wait(); err != nil {
			b.Error(err)
		}
	}}
}

// usage is what this process holds.
type usage struct {
	bytes      uint64 // of heap and stacks
	goroutines int
	threads    int
}

func measureUsage(b *testing.B) usage {
	b.Helper()
	runtime.GC()
	runtime.GC() // what finalizers let go of is only collected by the next one
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	threads, err := os.ReadDir("/proc/self/task")
	if err != nil {
		b.Fatal(err)
	}
	return usage{bytes: m.HeapInuse + m.StackInuse, goroutines: runtime.NumGoroutine(), threads: len(threads)}
}

// BenchmarkMemoryPerVM is B9: 1,000 VMs with a process each, and 10,000 with a machine in memory each, whose own
// size is part of the number.
func BenchmarkMemoryPerVM(b *testing.B) {
	b.Run("1000", func(b *testing.B) {
		host := newStubHost(b, stubvmm.BuildQEMU(b))
		defer host.stop()
		density(b, 1000, host.backend)
	})
	b.Run("10000", func(b *testing.B) { density(b, 10000, fake.New(fake.NewHost())) })
}

func density(b *testing.B, n int, backend types.Backend) {
	state, err := os.MkdirTemp("", "bench")
	if err != nil {
		b.Fatal(err)
	}
	defer os.RemoveAll(state)
	c := newCore(b, state, harness.StubAssets(b), store.NewMem(), backend)
	c.restore()
	defer c.stop()
	before := measureUsage(b)
	c.fill(n)
	after := measureUsage(b)
	c.empty()
	b.ReportMetric(0, "ns/op")
	b.ReportMetric(float64(after.bytes-before.bytes)/1024/float64(n), "KiB/VM")
	b.ReportMetric(float64(after.goroutines-before.goroutines)/float64(n), "goroutines/VM")
	b.ReportMetric(float64(after.threads-before.threads)/float64(n), "threads/VM")
}

// BenchmarkAdopt1000 is B12: taking over 1,000 live VMMs, against opening a pidfd, reading stat and connecting for
// each.
func BenchmarkAdopt1000(b *testing.B) {
	const n = 1000
	binary := stubvmm.BuildQEMU(b)
	state, err := os.MkdirTemp("", "bench")
	if err != nil {
		b.Fatal(err)
	}
	defer os.RemoveAll(state)
	assets := harness.StubAssets(b)
	records := store.NewMem()
	host := newStubHost(b, binary)
	c := newCore(b, state, assets, records, host.backend)
	c.restore()
	c.fill(n)
	restart := func() time.Duration {
		c.stop()
		host.stop()
		host = newStubHost(b, binary)
		c = newCore(b, state, assets, records, host.backend)
		return c.restore()
	}
	pairs(b, 5, restart, func() time.Duration {
		c.stop() // a VMM talks to one client at a time
		took := floorAdopt(b, c)
		c.restoreAgain()
		return took
	})
	c.empty()
	c.stop()
	host.stop()
}

// restoreAgain takes over the VMs after somebody else talked to them.
func (c *core) restoreAgain() {
	fresh := newCore(c.b, c.state, c.assets, c.records, c.backend)
	fresh.restore()
	*c = *fresh
}

// floorAdopt does for every VMM what cannot be left out.
func floorAdopt(b *testing.B, c *core) time.Duration {
	all, err := c.records.All()
	if err != nil {
		b.Fatal(err)
	}
	return timed(func() {
		for _, rec := range all {
			fd, err := unix.PidfdOpen(rec.Handle.Process.PID, 0)
			if err != nil {
				b.Fatal(err)
			}
			if _, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", rec.Handle.Process.PID)); err != nil {
				b.Fatal(err)
			}
			sockets, err := os.ReadDir(rec.Handle.RunDir)
			if err != nil {
				b.Fatal(err)
			}
			for _, s := range sockets {
				if strings.HasPrefix(s.Name(), "qmp") {
					conn, err := net.Dial("unix", filepath.Join(rec.Handle.RunDir, s.Name()))
					if err != nil {
						b.Fatal(err)
					}
					conn.Close()
				}
			}
			unix.Close(fd)
		}
	})
}
