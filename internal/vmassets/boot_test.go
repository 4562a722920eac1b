package vmassets

import (
	"context"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/unkeyed/unkey/go/deploy/metald/internal/guest"
)

// quickStartArgs are the kernel arguments that the documentation gives everyone.
const quickStartArgs = "console=ttyS0 reboot=k panic=1 pci=off"

// realAssets are what `make vm-assets` makes.
func realAssets(t *testing.T) string {
	t.Helper()
	needDiskTools(t)
	needQEMU(t)
	cfg := config(t, KernelGokrazy)
	mustBuild(t, cfg)
	return cfg.Out
}

// The documented quick start, word for word, reaches user space, and the power button ends it with a clean disk.
func TestGuestBootsAndPowersOff(t *testing.T) {
	dir := realAssets(t)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	vm := startQEMU(ctx, t, dir, quickStartArgs+" metald.count=1 metald.write=3145733", false)
	vm.await(guest.Marker)
	vm.await(guest.Wrote(3145733, guest.WriteFile))
	vm.await(guest.Second(1))
	vm.press(powerButton)
	vm.await(guest.PowerButton)
	vm.await(guest.PoweringOff)
	vm.awaitExit()
	disk := filepath.Join(dir, RootDiskFile)
	if err := checkDisk(disk); err != nil {
		t.Errorf("after a graceful end: %v", err)
	}
	if got := debugfs(t, disk, "stat "+guest.WriteFile); !strings.Contains(got, "Size: 3145733") {
		t.Errorf("what the guest wrote is not on the disk:\n%s", got)
	}
}

// A disk attached read-only boots, as it is clean, and refuses every write. Ctrl-alt-del ends the guest, as Firecracker
// has no power button.
func TestGuestOnAReadOnlyDisk(t *testing.T) {
	dir := realAssets(t)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	vm := startQEMU(ctx, t, dir, quickStartArgs+" metald.touch=/,/dev/vda,/tmp", true)
	vm.await(guest.Marker)
	vm.await(guest.TouchRefused("/", "EROFS"))
	vm.await(guest.TouchRefused("/dev/vda", "EPERM"))
	vm.await(guest.TouchAccepted("/tmp"))
	vm.press(ctrlAltDel)
	vm.await(guest.CtrlAltDel)
	vm.await(guest.Restarting)
	vm.awaitExit()
	if n := strings.Count(strings.Join(vm.said, "\n"), guest.CtrlAltDel); n != 1 {
		t.Errorf("one press was told %d times", n)
	}
	if _, err := Check(dir); err != nil {
		t.Errorf("the disk was changed: %v", err)
	}
}

// A guest told to ignore the power button goes on counting.
func TestGuestThatIgnoresThePowerButton(t *testing.T) {
	dir := realAssets(t)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	vm := startQEMU(ctx, t, dir, quickStartArgs+" metald.count=1 metald.power=ignore metald.exit=panic metald.after=4s", true)
	vm.await(guest.Second(1))
	vm.press(powerButton)
	vm.await(guest.PowerButton + guest.Ignored)
	vm.await(guest.Second(3))
	vm.await(guest.Panicking)
	vm.await("Kernel panic - not syncing")
	vm.awaitExit()
}
