// Package guests tests metald with many real guests at once.
package guests

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"connectrpc.com/connect"

	pb "github.com/unkeyed/unkey/go/deploy/metald/gen/vmprovisioner/v1"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/guest"
	"github.com/unkeyed/unkey/go/deploy/metald/test/harness"
)

func TestMain(m *testing.M) {
	code := m.Run()
	harness.Remove()
	os.Exit(code)
}

const (
	fleet       = 20
	bootTimeout = 4 * time.Minute // all of them share two cores and an emulated CPU
	stopTimeout = 240             // seconds
)

// TestFleet boots 20 real guests at once, has all of them power off when they are asked to, and looks for leftovers.
func TestFleet(t *testing.T) {
	if testing.Short() {
		t.Skip("boots 20 guests; not with -short")
	}
	assets := harness.Assets(t)
	d := harness.Start(t, harness.Options{AssetsDir: assets, Env: []string{
		"UNKEY_METALD_BACKEND=qemu", "UNKEY_METALD_QEMU_ACCEL=tcg",
	}})
	var all sync.WaitGroup
	for i := range fleet {
		all.Go(func() { live(t, d, assets, fmt.Sprintf("guest-%d", i)) })
	}
	all.Wait()
	if t.Failed() {
		return
	}
	nothingLeft(t, d)
	for _, stack := range d.Goroutines(t) {
		if strings.Contains(stack, "store.(*Bolt).Delete") {
			continue // the last record is removed after the deletion was answered
		}
		if strings.Contains(stack, "internal/vm.") && !strings.Contains(stack, "vm.(*Manager).Run") || strings.Contains(stack, "internal/backend/qemu.") {
			t.Errorf("a goroutine of a deleted VM is left:\n%s", stack)
		}
	}
}

// live takes one guest from its creation to its deletion.
func live(t *testing.T, d *harness.Daemon, assets, id string) {
	ctx := context.Background()
	step := func(what string, err error) bool {
		if err != nil {
			t.Errorf("%s: %s: %v", id, what, err)
		}
		return err == nil
	}
	_, err := d.Client.CreateVm(ctx, connect.NewRequest(harness.Guest(assets, id, "")))
	if !step("create", err) {
		return
	}
	_, err = d.Client.BootVm(ctx, connect.NewRequest(&pb.BootVmRequest{VmId: id}))
	if !step("boot", err) {
		return
	}
	boot, cancel := context.WithTimeout(ctx, bootTimeout)
	defer cancel()
	_, err = d.FollowConsole(boot, id, guest.Marker, 1)
	if !step("reach user space", err) {
		return
	}
	stopped, err := d.Client.ShutdownVm(ctx, connect.NewRequest(&pb.ShutdownVmRequest{VmId: id, TimeoutSeconds: stopTimeout}))
	if !step("shut down", err) {
		return
	}
	info, err := d.Client.GetVmInfo(ctx, connect.NewRequest(&pb.GetVmInfoRequest{VmId: id}))
	if !step("get", err) {
		return
	}
	if stopped.Msg.State != pb.VmState_VM_STATE_SHUTDOWN || info.Msg.BackendInfo["exit_reason"] != "guest-shutdown" {
		t.Errorf("%s: %v, %v; want a shutdown by the guest", id, stopped.Msg, info.Msg.BackendInfo)
	}
	_, err = d.Client.DeleteVm(ctx, connect.NewRequest(&pb.DeleteVmRequest{VmId: id}))
	step("delete", err)
}

// nothingLeft checks that no process, file, file descriptor or thread of the fleet is left.
func nothingLeft(t *testing.T, d *harness.Daemon) {
	t.Helper()
	for _, name := range []string{"run", "vms"} {
		if entries, err := os.ReadDir(filepath.Join(d.StateDir, name)); err != nil || len(entries) > 0 {
			t.Errorf("%s: %v, %v; want it empty", name, entries, err)
		}
	}
	if left := vmms(t, d.StateDir); len(left) > 0 {
		t.Errorf("VMMs left: %v", left)
	}
	fds, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", d.PID()))
	if err != nil {
		t.Fatal(err)
	}
	for _, fd := range fds {
		target, err := os.Readlink(fmt.Sprintf("/proc/%d/fd/%s", d.PID(), fd.Name()))
		if err == nil && (strings.Contains(target, "[pidfd]") || strings.Contains(target, d.StateDir+"/run/") || strings.Contains(target, d.StateDir+"/vms/")) {
			t.Errorf("metald still has %s open", target)
		}
	}
}

// vmms lists processes whose working directory is below the state directory, as that of every VMM is.
func vmms(t *testing.T, state string) (left []string) {
	t.Helper()
	cwds, err := filepath.Glob("/proc/[0-9]*/cwd")
	if err != nil {
		t.Fatal(err)
	}
	for _, cwd := range cwds {
		if dir, err := os.Readlink(cwd); err == nil && strings.HasPrefix(dir, state+"/run") {
			left = append(left, cwd)
		}
	}
	return left
}
