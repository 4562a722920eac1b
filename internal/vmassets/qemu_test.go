package vmassets

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

const qemu = "qemu-system-x86_64"

func needQEMU(t *testing.T) {
	t.Helper()
	if _, err := exec.LookPath(qemu); err != nil {
		t.Skipf("%s is not installed (qemu-system-x86)", qemu)
	}
}

// testVM is one QEMU, with the guest's console on its standard output.
type testVM struct {
	t       *testing.T
	cmd     *exec.Cmd
	socket  string // QMP
	console *bufio.Scanner
	said    []string // every line so far
}

// startQEMU boots the assets in dir the way the backend does: emulated, 128 MiB, no KVM needed. It is killed when ctx
// ends, and then everything that waits for it fails.
func startQEMU(ctx context.Context, t *testing.T, dir, args string, readOnly bool) *testVM {
	t.Helper()
	access, root := "off", "rw"
	if readOnly {
		access, root = "on", "ro"
	}
	run, err := os.MkdirTemp("", "vma") // a socket's path must be short
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(run) })
	vm := &testVM{t: t, socket: filepath.Join(run, "qmp")}
	vm.cmd = exec.CommandContext(ctx, qemu,
		"-M", "microvm,rtc=on,acpi=on", "-accel", "tcg", "-cpu", "max", "-m", "128", "-nodefaults", "-no-user-config",
		"-display", "none", "-no-reboot", "-kernel", filepath.Join(dir, BzImageFile),
		"-append", fmt.Sprintf("%s root=/dev/vda %s tsc_early_khz=%d", args, root, hostKHz(t)),
		"-qmp", "unix:"+vm.socket+",server=on,wait=off", "-serial", "stdio",
		"-blockdev", "driver=file,node-name=file,filename="+filepath.Join(dir, RootDiskFile)+",read-only="+access,
		"-blockdev", "driver=raw,node-name=disk,file=file,read-only="+access, "-device", "virtio-blk-device,drive=disk",
		// A keyboard controller: without it reboot=k finds nothing to pull, and some guests hang at their end.
		"-device", "i8042")
	vm.cmd.Stderr = t.Output()
	out, err := vm.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := vm.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if vm.cmd.ProcessState == nil {
			_ = vm.cmd.Process.Kill()
			_ = vm.cmd.Wait()
		}
	})
	vm.console = bufio.NewScanner(out)
	return vm
}

// await reads the console until a line with these words has come.
func (vm *testVM) await(words string) {
	vm.t.Helper()
	holds := func(line string) bool { return strings.Contains(line, words) }
	if slices.ContainsFunc(vm.said, holds) {
		return
	}
	for vm.console.Scan() {
		line := vm.console.Text()
		if vm.said = append(vm.said, line); holds(line) {
			return
		}
	}
	vm.t.Fatalf("the guest never said %q; its console:\n%s", words, strings.Join(vm.said, "\n"))
}

const (
	powerButton = `{"execute":"system_powerdown"}`
	ctrlAltDel  = `{"execute":"send-key","arguments":{"keys":[{"type":"qcode","data":"ctrl"},` +
		`{"type":"qcode","data":"alt"},{"type":"qcode","data":"delete"}]}}`
)

// press sends the guest powerButton or ctrlAltDel.
func (vm *testVM) press(command string) {
	vm.t.Helper()
	conn, err := net.Dial("unix", vm.socket)
	if err != nil {
		vm.t.Fatal(err)
	}
	defer conn.Close()
	replies := json.NewDecoder(conn)
	for _, say := range []string{"", `{"execute":"qmp_capabilities"}`, command} {
		if _, err := conn.Write([]byte(say)); err != nil {
			vm.t.Fatal(err)
		}
		// A greeting, a reply, and a reply or the event that comes with it.
		var reply map[string]any
		if err := replies.Decode(&reply); err != nil || reply["error"] != nil {
			vm.t.Fatalf("QMP %q: %v, error %v", say, reply, err)
		}
	}
}

// awaitExit waits until the guest has ended QEMU, and wants it to end well.
func (vm *testVM) awaitExit() {
	vm.t.Helper()
	for vm.console.Scan() {
		vm.said = append(vm.said, vm.console.Text())
	}
	if err := vm.cmd.Wait(); err != nil {
		vm.t.Errorf("QEMU: %v", err)
	}
}

// hostKHz is what an emulated guest is told about the speed of its clock; without it some boots hang.
func hostKHz(t *testing.T) int {
	t.Helper()
	text, err := os.ReadFile("/proc/cpuinfo")
	if err != nil {
		t.Fatal(err)
	}
	match := regexp.MustCompile(`bogomips\s*:\s*([0-9.]+)`).FindSubmatch(text)
	if match == nil {
		t.Skip("/proc/cpuinfo has no bogomips: not an x86 machine")
	}
	bogomips, err := strconv.ParseFloat(string(match[1]), 64)
	if err != nil {
		t.Fatal(err)
	}
	return int(bogomips * 500)
}
