package qemu

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/unkeyed/unkey/go/deploy/metald/internal/backend/backendtest"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/backend/types"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/host/dir"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/kernelimage"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/vm/lifecycle"
)

// refuse checks that a create fails as it should and leaves nothing. It returns the error.
func (r *rig) refuse(ctx context.Context, req types.CreateRequest) error {
	r.t.Helper()
	var committed types.Handle
	commit := req.Commit
	req.Commit = func(h types.Handle) error {
		committed = h
		return commit(h)
	}
	files := openFiles(r.t)
	m, err := r.backend.Create(ctx, req)
	if err == nil {
		must(r.t, m.Destroy(context.Background()))
		r.t.Fatal("it was created")
	}
	wantNoDir(r.t, req.RunDir)
	if pid := committed.Process.PID; pid != 0 && syscall.Kill(pid, 0) != syscall.ESRCH {
		r.t.Errorf("process %d is left", pid)
	}
	if now := openFiles(r.t); now > files && !r.parallel {
		r.t.Errorf("%d files are open, and %d were", now, files)
	}
	return err
}

func openFiles(t testing.TB) int {
	entries, err := os.ReadDir("/proc/self/fd")
	must(t, err)
	return len(entries)
}

func TestWhatIsNoKernelIsRefused(t *testing.T) {
	everywhere(t, func(t *testing.T, r *rig) {
		junk := filepath.Join(r.dir, "junk")
		backendtest.Write(t, junk, []byte("#!/bin/sh\n"))
		fifo := filepath.Join(r.dir, "fifo")
		must(t, syscall.Mkfifo(fifo, 0o600))
		for _, kernel := range []string{junk, fifo, r.dir, filepath.Join(r.dir, "missing"), "/bin/true", "/dev/null"} {
			req := r.request("nokernel", r.spec())
			req.Kernel = kernel
			err := r.refuse(t.Context(), req)
			wantKind(t, err, types.KindInvalid, kernelimage.Field, "")
			if strings.Contains(err.Error(), r.dir) {
				t.Errorf("the error tells a path of the host: %v", err)
			}
		}
	})
}

func TestAKernelThatQEMUCannotLoadIsRefused(t *testing.T) {
	r := onQEMU(t)
	// The header of a kernel, and nothing behind it: only QEMU can find that out.
	kernel := filepath.Join(r.dir, "empty")
	backendtest.Write(t, kernel, fakeBzImage("7.1.2")[:0x260])
	req := r.request("empty", r.spec())
	req.Kernel = kernel
	err := r.refuse(t.Context(), req)
	t.Log(err)
	if k := types.KindOf(err); k != types.KindInvalid && k != types.KindUnavailable {
		t.Errorf("error %v", err)
	}
}

func TestAnUncompressedKernelNeedsItsTwin(t *testing.T) {
	r := onQEMU(t)
	alone := filepath.Join(r.dir, "vmlinux")
	backendtest.Copy(t, r.kernel, alone)
	req := r.request("alone", r.spec())
	req.Kernel = alone
	wantKind(t, r.refuse(t.Context(), req), types.KindInvalid, kernelimage.Field, "PVH")
	backendtest.Write(t, alone+kernelimage.SiblingSuffix, fakeBzImage("6.1.0 (builder@host) #1"))
	wantKind(t, r.refuse(t.Context(), req), types.KindInvalid, kernelimage.Field, "6.1.0")
	must(t, os.Remove(alone+kernelimage.SiblingSuffix))
	backendtest.Copy(t, r.kernel+kernelimage.SiblingSuffix, alone+kernelimage.SiblingSuffix)
	r.createFrom(req).want(lifecycle.Created)
}

func TestOneImageForTwoWriters(t *testing.T) {
	everywhere(t, func(t *testing.T, r *rig) {
		first := r.create("first", r.spec())
		req := r.request("second", r.spec())
		req.Disks = first.req.Disks
		wantKind(t, r.refuse(t.Context(), req), types.KindPrecondition, "config.storage", "lock")
	})
}

func TestMissingDiskAndInitrd(t *testing.T) {
	r := onStub(t)
	req := r.request("nodisk", r.spec())
	req.Disks = []string{filepath.Join(r.dir, "missing")}
	wantKind(t, r.refuse(t.Context(), req), types.KindInvalid, "config.storage[0].path", "no such file")
	req.Disks = []string{r.dir}
	wantKind(t, r.refuse(t.Context(), req), types.KindInvalid, "config.storage[0].path", "")
	spec := r.spec()
	spec.Boot.InitrdPath = "/missing"
	req = r.request("noinitrd", spec)
	req.Initrd = filepath.Join(r.dir, "missing")
	wantKind(t, r.refuse(t.Context(), req), types.KindInvalid, "config.boot.initrd_path", "no such file")
}

func TestTooMuchMemory(t *testing.T) {
	everywhere(t, func(t *testing.T, r *rig) {
		spec := r.spec()
		spec.Memory.SizeBytes = 1 << 50
		wantKind(t, r.refuse(t.Context(), r.request("big", spec)), types.KindExhausted, "config.memory.size_bytes", "memory")
	})
}

func TestTooManyVCPUsForTCG(t *testing.T) {
	r := onQEMU(t)
	spec := r.spec()
	spec.CPU.Count = maxVCPUs
	wantKind(t, r.refuse(t.Context(), r.request("wide", spec)), types.KindUnsupported, "config.cpu.vcpu_count", "X2APIC")
}

func TestFeaturesAreHadOrRefused(t *testing.T) {
	r := onQEMU(t)
	spec := r.spec()
	spec.CPU.Features = map[string]string{}
	for _, f := range cpuFeatures {
		spec.CPU.Features[f] = "off"
	}
	r.create("without", spec)
}

func TestCommitThatFails(t *testing.T) {
	everywhere(t, func(t *testing.T, r *rig) {
		full := errors.New("the disk is full")
		req := r.request("uncommitted", r.spec())
		req.Commit = func(types.Handle) error { return full }
		if err := r.refuse(t.Context(), req); !errors.Is(err, full) {
			t.Errorf("error %v", err)
		}
	})
}

func TestCreateThatIsCanceled(t *testing.T) {
	r := onStub(t)
	for _, when := range []time.Duration{0, 20 * time.Millisecond} {
		ctx, cancel := context.WithCancel(t.Context())
		req := r.request("canceled", r.spec("stub.start=1m"))
		req.Commit = func(types.Handle) error {
			time.AfterFunc(when, cancel)
			return nil
		}
		bounded(t, time.Second, func() {
			if err := r.refuse(ctx, req); types.KindOf(err) != types.KindCanceled {
				t.Errorf("error %v", err)
			}
		})
		cancel()
	}
}

func TestQEMUThatIsWrong(t *testing.T) {
	for knob, text := range map[string]string{
		"stub.die=3":                  "told to die",
		"stub.garbage=1":              "not QMP",
		"stub.half=1":                 "ended",
		"stub.mute=greeting":          "does not answer",
		"stub.mute=qmp_capabilities":  "does not answer",
		"stub.mute=query-status":      "does not answer",
		"stub.unknown=1":              "no such knob",
		"stub.start=1m stub.boot=1ms": "does not answer",
	} {
		t.Run(knob, func(t *testing.T) {
			t.Parallel()
			r := onStub(t)
			r.parallel = true
			req := r.request("wrong", r.spec(strings.Fields(knob)...))
			bounded(t, qmpTimeout+2*time.Second, func() {
				wantKind(t, r.refuse(t.Context(), req), types.KindUnavailable, "", text)
			})
		})
	}
}

func TestAVMMThatIsNone(t *testing.T) {
	r := onStub(t)
	for _, binary := range []string{"/bin/false", "/missing", "/etc/passwd"} {
		r.backend.cfg.Binary = binary
		if err := r.refuse(t.Context(), r.request("none", r.spec())); types.KindOf(err) != types.KindUnavailable {
			t.Errorf("%s: %v", binary, err)
		}
	}
}

func TestBootThatDoesNotRun(t *testing.T) {
	r := onStub(t)
	v := r.create("notrun", r.spec("stub.notrun=1"))
	wantKind(t, v.Boot(t.Context()), types.KindUnavailable, "", "CREATED")
	v.want(lifecycle.Created)
}

func TestCrashOfTheVMM(t *testing.T) {
	r := onStub(t)
	v := r.create("crash", r.spec("stub.crash=1"))
	_ = v.Boot(t.Context()) // it may have been seen to run
	x := v.wantExit(types.ReasonCrashed, time.Second)
	if !strings.Contains(x.Detail, "Assertion") || x.Signal != int(syscall.SIGABRT) {
		t.Errorf("exit %+v", x)
	}
}

// A VMM that says more than a disk holds fills none, and its last words are known all the same, also to the next
// metald.
func TestANoisyVMM(t *testing.T) {
	r := onStub(t)
	wantKind(t, r.refuse(t.Context(), r.request("dies", r.spec("stub.noise=4096", "stub.die=3"))), types.KindUnavailable, "", "told to die")

	v := r.create("noisy", r.spec("stub.noise=4096", "stub.crash=1"))
	must(t, filepath.WalkDir(v.req.RunDir, func(path string, _ fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if info, err := os.Lstat(path); err != nil || info.Mode().IsRegular() {
			t.Errorf("%s: %v, %v; want no file that could grow", path, info, err)
		}
		return nil
	}))
	v.Release()
	m, err := r.another().Adopt(t.Context(), types.AdoptRequest{Handle: v.Handle(), Spec: v.req.Spec, Console: v.screen})
	must(t, err)
	adopted := &testVM{machine: m.(*machine), t: t, screen: v.screen, req: v.req}
	t.Cleanup(func() { must(t, adopted.Destroy(context.Background())) })
	_ = adopted.Boot(t.Context()) // it may have been seen to run
	if x := adopted.wantExit(types.ReasonCrashed, time.Second); !strings.Contains(x.Detail, "Assertion") {
		t.Errorf("exit %+v", x)
	}
}

// The run directory is the VMM's own: what it puts there is neither followed nor waited for.
func TestAVMMThatReplacesItsStderr(t *testing.T) {
	for what, replace := range map[string]func(path, secret string) error{
		"link":    func(path, secret string) error { return os.Symlink(secret, path) },
		"file":    func(path, _ string) error { return os.WriteFile(path, []byte("secret"), 0o600) },
		"nothing": func(string, string) error { return nil },
		"FIFO":    func(path, _ string) error { return syscall.Mkfifo(path, 0o600) },
	} {
		t.Run(what, func(t *testing.T) {
			r := onStub(t)
			secret := filepath.Join(r.dir, "secret")
			backendtest.Write(t, secret, []byte("secret"))
			v := r.create("replaced", r.spec("stub.crash=1"))
			v.Release()
			path := filepath.Join(v.req.RunDir, stderrFile)
			must(t, os.Remove(path))
			must(t, replace(path, secret))
			m, err := r.another().Adopt(t.Context(), types.AdoptRequest{Handle: v.Handle(), Spec: v.req.Spec, Console: v.screen})
			must(t, err)
			adopted := &testVM{machine: m.(*machine), t: t, screen: v.screen, req: v.req}
			t.Cleanup(func() { must(t, adopted.Destroy(context.Background())) })
			_ = adopted.Boot(t.Context())
			if x := adopted.wantExit(types.ReasonCrashed, 2*drainTimeout); strings.Contains(x.Detail, "secret") {
				t.Errorf("exit %+v", x)
			}
		})
	}
}

// heldConsole takes nothing until it is let.
type heldConsole struct {
	reached, free chan struct{}
	once          sync.Once
}

func (c *heldConsole) Write(p []byte) (int, error) {
	c.once.Do(func() { close(c.reached) })
	<-c.free
	return len(p), nil
}

// TestDestroyOfWhatHasDied ends a VM whose QEMU was killed, before all that its guest said was read.
func TestDestroyOfWhatHasDied(t *testing.T) {
	for _, readOnly := range []bool{false, true} {
		r := onStub(t)
		spec := r.spec()
		spec.Disks[0].ReadOnly = readOnly
		req := r.request("died", spec)
		held := &heldConsole{reached: make(chan struct{}), free: make(chan struct{})}
		req.Console = held
		made, err := r.backend.Create(t.Context(), req)
		must(t, err)
		m := made.(*machine)
		must(t, m.Boot(t.Context()))
		<-held.reached
		must(t, syscall.Kill(m.handle.Process.PID, syscall.SIGKILL))
		<-m.process.Exited()
		destroyed := make(chan error, 1)
		go func() { destroyed <- m.Destroy(context.Background()) }()
		select { // whatever it does at once it has done
		case <-destroyed:
			t.Fatal("destroyed, and its console was not read")
		case <-time.After(100 * time.Millisecond):
		}
		close(held.free)
		must(t, <-destroyed)
		if x := m.Exit(); x.Reason != types.ReasonKilled {
			t.Errorf("read-only disks %v: exit %+v, want %s", readOnly, x, types.ReasonKilled)
		}
		wantNoDir(t, req.RunDir)
	}
}

// A run directory that cannot be removed does not keep a VMM.
func TestDestroyEndsTheVMMWhateverItsDirectory(t *testing.T) {
	for _, readOnly := range []bool{false, true} {
		r := onStub(t)
		spec := r.spec()
		spec.Disks[0].ReadOnly = readOnly
		v := r.create("mounted", spec)
		if err := unix.Mount("none", v.req.RunDir, "tmpfs", 0, ""); err != nil {
			t.Skipf("nothing can be mounted: %v", err)
		}
		unmount := sync.OnceFunc(func() { must(t, unix.Unmount(v.req.RunDir, unix.MNT_DETACH)) })
		t.Cleanup(unmount)
		if err := v.Destroy(t.Context()); !errors.Is(err, dir.ErrMounted) {
			t.Errorf("read-only disks %v: destroyed, %v", readOnly, err)
		}
		v.wantExit(types.ReasonForced, 0)
		unmount()
		must(t, v.Destroy(t.Context()))
		v.wantGone()
	}
}

func TestAGuestThatQEMUStops(t *testing.T) {
	r := onStub(t)
	req := r.request("full", r.spec("stub.full=1"))
	stops := make(chan struct{}, 10)
	req.Stopped = func() { stops <- struct{}{} }
	v := r.createFrom(req)
	must(t, v.Boot(t.Context()))
	select {
	case <-stops:
	case <-time.After(patience):
		t.Fatal("nobody was told")
	}
	v.want(lifecycle.Paused)
	must(t, v.Resume(t.Context()))
	must(t, v.Pause(t.Context())) // what was asked for is not told
	v.want(lifecycle.Paused)
	must(t, v.Destroy(t.Context()))
	if len(stops) > 0 {
		t.Errorf("told %d times of what metald did itself", len(stops))
	}
}

func TestAQuitThatIsNotObeyed(t *testing.T) {
	r := onStub(t)
	v := r.boot("holds", "stub.hold=1")
	bounded(t, quitTimeout+time.Second, func() { must(t, v.Destroy(t.Context())) })
	v.wantExit(types.ReasonForced, 0)
	v.wantGone()

	impatient := r.boot("holds2", "stub.hold=1")
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	bounded(t, time.Second, func() { must(t, impatient.Destroy(ctx)) })
	impatient.wantGone()
}

func TestGuestThatEndsAsSoonAsItRuns(t *testing.T) {
	r := onStub(t)
	for range 20 {
		v := r.create("brief", r.spec("metald.exit=poweroff"))
		must(t, v.Boot(t.Context())) // it ran, however short
		v.wantExit(types.ReasonGuestShutdown, patience)
		must(t, v.Destroy(t.Context()))
	}
}

func TestManyAtOnce(t *testing.T) {
	r := onStub(t)
	files := openFiles(t)
	var all errgroup.Group
	for i := range 40 {
		req := r.request("many-"+string(rune('a'+i%26))+string(rune('a'+i/26)), r.spec())
		all.Go(func() error {
			m, err := r.backend.Create(t.Context(), req)
			if err != nil {
				return err
			}
			if err := m.Boot(t.Context()); err != nil {
				return errors.Join(err, m.Destroy(context.Background()))
			}
			if _, err := m.Usage(t.Context()); err != nil {
				return errors.Join(err, m.Destroy(context.Background()))
			}
			return m.Destroy(t.Context())
		})
	}
	must(t, all.Wait())
	if now := openFiles(t); now > files {
		t.Errorf("%d files are open, and %d were", now, files)
	}
}

func TestHandlesOfOthersAreRefused(t *testing.T) {
	r := onStub(t)
	v := r.create("mine", r.spec())
	for name, change := range map[string]func(*types.Handle){
		"backend": func(h *types.Handle) { h.Backend = "firecracker" },
		"version": func(h *types.Handle) { h.Version = 2 },
		"run dir": func(h *types.Handle) { h.RunDir = "" },
		"private": func(h *types.Handle) { h.Private = nil },
	} {
		h := v.Handle()
		change(&h)
		if _, err := r.backend.Adopt(t.Context(), types.AdoptRequest{Handle: h}); err == nil {
			t.Errorf("%s: adopted", name)
		}
		if _, err := r.backend.Reap(t.Context(), h); err == nil {
			t.Errorf("%s: reaped", name)
		}
	}
	v.want(lifecycle.Created)
}

func TestASocketOfAnotherProcessIsNotAdopted(t *testing.T) {
	r := onStub(t)
	mine, other := r.boot("mine"), r.boot("other")
	mine.Release()
	other.Release()
	// The run directory of the one is put in the place of the other's.
	must(t, os.Rename(mine.req.RunDir, mine.req.RunDir+"-away"))
	must(t, os.Rename(other.req.RunDir, mine.req.RunDir))
	_, err := r.backend.Adopt(t.Context(), types.AdoptRequest{Handle: mine.Handle(), Spec: mine.req.Spec, Console: mine.screen})
	wantKind(t, err, types.KindUnavailable, "", "listens on its monitor")
	backendtest.Reap(t, r.backend, mine.Handle())
	backendtest.Reap(t, r.backend, other.Handle())
	must(t, os.RemoveAll(mine.req.RunDir+"-away"))
}

func BenchmarkCreateBootDestroy(b *testing.B) {
	r := onStub(b)
	b.ReportAllocs()
	for b.Loop() {
		req := r.request("bench", r.spec())
		m, err := r.backend.Create(b.Context(), req)
		must(b, err)
		must(b, m.Boot(b.Context()))
		must(b, m.Destroy(b.Context()))
	}
}

func BenchmarkUsage(b *testing.B) {
	r := onStub(b)
	v := r.boot("bench")
	b.ReportAllocs()
	for b.Loop() {
		if _, err := v.Usage(b.Context()); err != nil {
			b.Fatal(err)
		}
	}
}
