package main

import (
	"context"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"time"

	"connectrpc.com/connect"

	pb "github.com/unkeyed/unkey/go/deploy/metald/gen/vmprovisioner/v1"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/guest"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/host/proc"
	"github.com/unkeyed/unkey/go/deploy/metald/test/lab/powerloss"
)

// guests are busy for as long as they live. One writes to its disk all the time, and syncs it; the others a little.
var guests = map[string]string{
	"a": guest.ArgBurn + "=" + guest.BurnForever + " " + guest.ArgWrite + "=1000000000000",
	"b": guest.ArgBurn + "=" + guest.BurnForever + " " + guest.ArgWrite + "=4194304",
	"c": guest.ArgBurn + "=" + guest.BurnForever + " " + guest.ArgWrite + "=4194304",
}

// run boots the guests under metald, and says what their VMMs use, until the power is gone.
func run(ctx context.Context) error {
	m, err := start(ctx)
	if err != nil {
		return err
	}
	failed := make(chan error, 2)
	var s syncer
	var w watched
	go func() { failed <- s.run() }()
	go func() {
		if err := w.boot(ctx, m); err != nil {
			failed <- fmt.Errorf("%w; metald said:\n%s", err, lastLines(logPath()))
		}
	}()
	tick := time.NewTicker(powerloss.WordEvery)
	for {
		select {
		case err := <-m.exited:
			return fmt.Errorf("metald ended: %w:\n%s", err, lastLines(logPath()))
		case err := <-failed:
			return err
		case <-tick.C:
			word := powerloss.Word{Mono: mono()}
			if word.CPU, err = w.read(); err != nil {
				return err
			}
			word.Read = mono()
			s.put(&word)
			say(word)
		}
	}
}

// watched are the VMMs of the VMs that were booted.
type watched struct {
	mu   sync.Mutex
	vmms map[string]*proc.Meter
}

// boot boots the guests one after the other, and makes those that do not exist.
func (w *watched) boot(ctx context.Context, m *metald) error {
	known, err := vms(ctx, m)
	if err != nil {
		return err
	}
	missing := maps.Clone(guests)
	for _, vm := range known {
		delete(missing, vm.ID)
	}
	for id, args := range missing {
		if _, err := m.client.CreateVm(ctx, connect.NewRequest(request(id, args))); err != nil {
			return fmt.Errorf("create %s: %w", id, err)
		}
	}
	for id := range guests {
		if err := w.bootOne(ctx, m, id); err != nil {
			return fmt.Errorf("boot %s: %w", id, err)
		}
	}
	return nil
}

func request(id, args string) *pb.CreateVmRequest {
	args = "console=ttyS0 reboot=k panic=1 pci=off quiet " + os.Getenv("METALD_TEST_KERNEL_ARGS") + " " + args
	return &pb.CreateVmRequest{VmId: id, Config: &pb.VmConfig{
		Cpu:     &pb.CpuConfig{VcpuCount: 1},
		Memory:  &pb.MemoryConfig{SizeBytes: 128 << 20},
		Boot:    &pb.BootConfig{KernelPath: filepath.Join(powerloss.Assets, "kernel"), KernelArgs: args},
		Storage: []*pb.StorageDevice{{Path: filepath.Join(powerloss.Assets, "rootfs.ext4")}},
	}}
}

func (w *watched) bootOne(ctx context.Context, m *metald, id string) error {
	if _, err := m.client.BootVm(ctx, connect.NewRequest(&pb.BootVmRequest{VmId: id})); err != nil {
		return err
	}
	info, err := m.client.GetVmInfo(ctx, connect.NewRequest(&pb.GetVmInfoRequest{VmId: id}))
	if err != nil {
		return err
	}
	pid, err := strconv.Atoi(info.Msg.GetBackendInfo()["pid"])
	if err != nil {
		return err
	}
	meter, err := proc.Open(pid)
	if err != nil {
		return err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.vmms == nil {
		w.vmms = map[string]*proc.Meter{}
	}
	w.vmms[id] = meter
	return nil
}

// read reads the clock of each VMM.
func (w *watched) read() (map[string]int64, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	cpu := map[string]int64{}
	for id, meter := range w.vmms {
		used, err := meter.CPU()
		if err != nil {
			return nil, fmt.Errorf("the VMM of %s: %w", id, err)
		}
		cpu[id] = used.Nanoseconds()
	}
	return cpu, nil
}
