package qemu

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"sync"
	"syscall"
	"time"

	"github.com/unkeyed/unkey/go/deploy/metald/internal/console"

	"golang.org/x/sys/unix"

	"github.com/unkeyed/unkey/go/deploy/metald/internal/host/boot"
)

const (
	// canaryTimeout is how long the trial guest may take. By KVM it takes a fraction of a second.
	canaryTimeout = 5 * time.Second
	// canaryFile keeps the verdict, in the state directory.
	canaryFile = "kvm-canary.json"
	// maxCanaryOutput bounds what is read of the trial guest's console.
	maxCanaryOutput = 1 << 20
)

// canaryMarkers are what a kernel without disk and initrd says when it has come up: it looks for init and gives up.
var canaryMarkers = [][]byte{
	[]byte("VFS: Cannot open root device"), []byte("VFS: Unable to mount root fs"), []byte("Run /init as init process"),
	[]byte("Kernel panic - not syncing: VFS"), []byte("Kernel panic - not syncing: No working init"),
}

// canary says whether a kernel comes up by KVM: from what an earlier trial on this boot of the host found, or by a
// trial. An error says that none could be made.
func (b *Backend) canary(ctx context.Context) (verdict, error) {
	binary, err := b.binary()
	if err != nil {
		return verdict{}, err
	}
	if b.cfg.CanaryKernel == "" {
		return verdict{}, errors.New("there is no kernel to try it with")
	}
	kernel, err := b.kernels.open(b.cfg.CanaryKernel)
	if err != nil {
		return verdict{}, fmt.Errorf("there is no kernel to try it with: %w", err)
	}
	defer kernel.Close()
	key, err := canaryKey(binary, kernel)
	if err != nil {
		return verdict{}, err
	}
	path := filepath.Join(b.cfg.StateDir, canaryFile)
	if v, ok := recall(path, key); ok && b.cfg.StateDir != "" {
		return v, nil
	}
	v := tryKVM(ctx, binary, kernel)
	if ctx.Err() == nil && b.cfg.StateDir != "" {
		if err := keep(path, key, v); err != nil {
			b.cfg.Log.Warn("the verdict about KVM could not be kept; it will be tried again at the next start", "error", err)
		}
	}
	return v, nil
}

// tryKVM boots kernel alone and waits for its last words. QEMU is a process of its own, as a hanging KVM can hold up
// the end of a process that uses it, and dies with metald: it is nobody's VM.
func tryKVM(ctx context.Context, binary string, kernel *os.File) verdict {
	ctx, cancel := context.WithTimeout(ctx, canaryTimeout)
	defer cancel()
	screen := &markerWriter{found: cancel}
	stderr := &console.Tail{}
	cmd := exec.CommandContext(ctx, binary, canaryArguments(3)...)
	cmd.Stdout, cmd.Stderr = screen, stderr
	cmd.ExtraFiles = []*os.File{kernel}
	cmd.Env = []string{}
	cmd.WaitDelay = killTimeout
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Pdeathsig: syscall.SIGKILL}
	// The death signal comes when the thread ends that started the process.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	began := time.Now()
	err := cmd.Run()
	took := time.Since(began).Round(time.Millisecond)
	switch {
	case screen.marker() != "":
		return verdict{Usable: true, Why: fmt.Sprintf("a trial guest came up within %s", took)}
	case ctx.Err() != nil:
		return verdict{Why: fmt.Sprintf("a trial guest did not come up within %s", canaryTimeout)}
	case stderr.String() != "":
		return verdict{Why: fmt.Sprintf("QEMU ended in a trial (%v): %s", err, stderr)}
	}
	return verdict{Why: fmt.Sprintf("a trial guest ended without coming up (%v)", err)}
}

// canaryArguments boots the kernel that is open as fd with its console on standard output.
func canaryArguments(fd int) []string {
	return []string{
		"-name", "guest=kvm-canary,debug-threads=on", "-machine", "microvm,acpi=on,rtc=on", "-accel", "kvm", "-cpu", "host", "-m", "128M", "-smp", "1",
		"-nodefaults", "-no-user-config", "-display", "none", "-no-reboot", "-sandbox", sandbox,
		"-chardev", "stdio,id=console,signal=off", "-serial", "chardev:console",
		"-kernel", fmt.Sprintf("/proc/self/fd/%d", fd), "-append", "console=ttyS0 reboot=t panic=-1",
	}
}

// markerWriter looks for a marker in what is written to it, and calls found when it comes.
type markerWriter struct {
	found func()

	mu   sync.Mutex
	text []byte
	seen string
}

func (w *markerWriter) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.seen != "" || len(w.text) > maxCanaryOutput {
		return len(p), nil
	}
	from := max(0, len(w.text)-64) // longer than any marker
	w.text = append(w.text, p...)
	for _, m := range canaryMarkers {
		if bytes.Contains(w.text[from:], m) {
			w.seen = string(m)
			w.found()
		}
	}
	return len(p), nil
}

func (w *markerWriter) marker() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.seen
}

// canaryResult is the content of canaryFile: the verdict, and everything whose change makes it void.
type canaryResult struct {
	Key     trialKey `json:"key"`
	Verdict verdict  `json:"verdict"`
}

type trialKey struct {
	BootID      string `json:"bootId"`
	HostKernel  string `json:"hostKernel"`
	QEMU        string `json:"qemu"`
	GuestKernel string `json:"guestKernel"`
}

func canaryKey(binary string, kernel *os.File) (trialKey, error) {
	bootID, err := boot.ID()
	if err != nil {
		return trialKey{}, err
	}
	var host unix.Utsname
	if err := unix.Uname(&host); err != nil {
		return trialKey{}, os.NewSyscallError("uname", err)
	}
	qemu, err := os.Stat(binary)
	if err != nil {
		return trialKey{}, err
	}
	guest, err := kernel.Stat()
	if err != nil {
		return trialKey{}, err
	}
	return trialKey{
		BootID: bootID, HostKernel: unix.ByteSliceToString(host.Release[:]),
		QEMU: stamp(binary, qemu), GuestKernel: stamp(kernel.Name(), guest),
	}, nil
}

func stamp(path string, info os.FileInfo) string {
	return fmt.Sprintf("%s %d bytes %s", path, info.Size(), info.ModTime().UTC().Format(time.RFC3339Nano))
}

// recall reads the verdict of an earlier trial under the same conditions.
func recall(path string, key trialKey) (verdict, bool) {
	b, err := os.ReadFile(path)
	if err != nil {
		return verdict{}, false
	}
	var r canaryResult
	if err := json.Unmarshal(b, &r); err != nil || r.Key != key {
		return verdict{}, false
	}
	return r.Verdict, true
}

// keep writes the verdict so that a reader sees a whole file or none.
func keep(path string, key trialKey, v verdict) error {
	b, err := json.MarshalIndent(canaryResult{Key: key, Verdict: v}, "", "  ")
	if err != nil {
		return err
	}
	temp, err := os.CreateTemp(filepath.Dir(path), "."+canaryFile+"-*")
	if err != nil {
		return err
	}
	defer os.Remove(temp.Name())
	if _, err := temp.Write(append(b, '\n')); err != nil {
		temp.Close()
		return err
	}
	if err := temp.Close(); err != nil {
		return err
	}
	return os.Rename(temp.Name(), path)
}
