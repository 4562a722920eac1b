package qemu

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/unkeyed/unkey/go/deploy/metald/internal/backend/backendtest"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/backend/types"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/host/kvm"
)

func decider(t *testing.T, mode string, canary func(context.Context) (kvm.Verdict, error)) *accelerator {
	return &accelerator{
		mode: mode, turn: make(chan struct{}, 1), canary: canary, log: slog.New(slog.NewTextHandler(backendtest.Log{TB: t}, nil)),
		probe: func() kvm.Verdict { return kvm.Verdict{Usable: true} },
	}
}

func TestChoiceOfAccelerator(t *testing.T) {
	for _, c := range []struct {
		mode  string
		v     kvm.Verdict
		err   error
		want  string
		fails bool
	}{
		{mode: accelTCG, v: kvm.Verdict{Usable: true}, want: accelTCG},
		{mode: accelAuto, v: kvm.Verdict{Usable: true}, want: accelKVM},
		{mode: accelAuto, v: kvm.Verdict{Why: "it hangs"}, want: accelTCG},
		{mode: accelAuto, err: errors.New("no kernel"), want: accelTCG},
		{mode: accelKVM, v: kvm.Verdict{Usable: true}, want: accelKVM},
		{mode: accelKVM, v: kvm.Verdict{Why: "it hangs"}, fails: true},
	} {
		a := decider(t, c.mode, func(context.Context) (kvm.Verdict, error) { return c.v, c.err })
		got, err := a.choose(t.Context())
		if got != c.want || (err != nil) != c.fails {
			t.Errorf("%+v: %s, %v", c, got, err)
		}
		if c.fails {
			wantKind(t, err, types.KindPrecondition, "", c.v.Why)
		}
	}
}

func TestKVMIsTriedOnce(t *testing.T) {
	tries := 0
	a := decider(t, accelAuto, func(context.Context) (kvm.Verdict, error) {
		tries++ // the race detector sees two at once
		return kvm.Verdict{Usable: true}, nil
	})
	var all sync.WaitGroup
	for range 20 {
		all.Go(func() {
			if _, err := a.choose(t.Context()); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	if tries != 1 {
		t.Errorf("tried %d times", tries)
	}
}

func TestTrialThatIsCutShortDecidesNothing(t *testing.T) {
	began := make(chan struct{})
	first := true
	a := decider(t, accelAuto, func(ctx context.Context) (kvm.Verdict, error) {
		if first {
			first = false
			close(began)
			<-ctx.Done()
			return kvm.Verdict{Why: "canceled"}, nil
		}
		return kvm.Verdict{Usable: true}, nil
	})
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		<-began
		cancel()
	}()
	if _, err := a.choose(ctx); types.KindOf(err) != types.KindCanceled {
		t.Errorf("error %v", err)
	}
	if got, err := a.choose(t.Context()); got != accelKVM || err != nil {
		t.Errorf("%s, %v", got, err)
	}
}

func TestTrialGuests(t *testing.T) {
	kernel := filepath.Join(t.TempDir(), "vmlinuz")
	backendtest.Write(t, kernel, fakeBzImage("7.1.2"))
	file, err := os.Open(kernel)
	must(t, err)
	defer file.Close()
	if v := tryKVM(t.Context(), stubPath, file, canaryTimeout); !v.Usable {
		t.Errorf("a guest that comes up: %+v", v)
	}
	if v := tryKVM(t.Context(), "/bin/false", file, canaryTimeout); v.Usable || !strings.Contains(v.Why, "ended without") {
		t.Errorf("a VMM that ends: %+v", v)
	}
	notAKernel, err := os.Open("/dev/null")
	must(t, err)
	defer notAKernel.Close()
	if v := tryKVM(t.Context(), stubPath, notAKernel, canaryTimeout); v.Usable || !strings.Contains(v.Why, "invalid kernel header") {
		t.Errorf("no kernel: %+v", v)
	}
}

// TestTrialGuestThatHangs is what a host does whose KVM passes every probe and runs no kernel.
func TestTrialGuestThatHangs(t *testing.T) {
	dir := t.TempDir()
	hangs := filepath.Join(dir, "hangs")
	must(t, os.WriteFile(hangs, []byte("#!/bin/sh\necho $$ > \"$0.pid\"\necho Linux version 7.1.2\nexec sleep 1000\n"), 0o755))
	kernel := filepath.Join(dir, "vmlinuz")
	backendtest.Write(t, kernel, fakeBzImage("7.1.2"))
	file, err := os.Open(kernel)
	must(t, err)
	defer file.Close()
	var v kvm.Verdict
	bounded(t, canaryTimeout+time.Second, func() { v = tryKVM(t.Context(), hangs, file, canaryTimeout) })
	if v.Usable || !strings.Contains(v.Why, "did not come up within") {
		t.Errorf("%+v", v)
	}
	pid, err := os.ReadFile(hangs + ".pid")
	must(t, err)
	if _, err := os.Stat("/proc/" + strings.TrimSpace(string(pid))); !os.IsNotExist(err) {
		t.Errorf("process %s is left: %v", pid, err)
	}
}

func TestVerdictIsKept(t *testing.T) {
	dir := t.TempDir()
	kernel := filepath.Join(dir, "vmlinuz")
	backendtest.Write(t, kernel, fakeBzImage("7.1.2"))
	newBackend := func() *Backend {
		b, err := New(Config{Binary: stubPath, Accel: accelKVM, StateDir: dir, CanaryKernel: kernel, Log: slog.New(slog.NewTextHandler(backendtest.Log{TB: t}, nil))})
		must(t, err)
		return b
	}
	v, err := newBackend().canary(t.Context())
	if err != nil || !v.Usable {
		t.Fatalf("%+v, %v", v, err)
	}
	again, err := newBackend().canary(t.Context())
	if err != nil || again != v { // a second trial would have taken another time
		t.Errorf("%+v, then %+v, %v", v, again, err)
	}
	// Another kernel, another trial.
	later := time.Now().Add(time.Hour)
	must(t, os.Chtimes(kernel, later, later))
	key := func() kvm.Trial {
		f, err := os.Open(kernel)
		must(t, err)
		defer f.Close()
		k, err := kvm.TrialOf(stubPath, f)
		must(t, err)
		return k
	}
	if _, ok := kvm.Recall(filepath.Join(dir, canaryFile), key()); ok {
		t.Error("the verdict on another kernel was believed")
	}
	must(t, os.WriteFile(filepath.Join(dir, canaryFile), []byte("{"), 0o600))
	if _, ok := kvm.Recall(filepath.Join(dir, canaryFile), key()); ok {
		t.Error("half a file was believed")
	}
	entries, err := os.ReadDir(dir)
	must(t, err)
	if len(entries) != 2 {
		t.Errorf("left: %v", entries)
	}
}

// TestKVMOfThisHost shows on a host whose KVM is not sound that it isn't taken, and on any other that it is proved.
func TestKVMOfThisHost(t *testing.T) {
	r := onQEMU(t)
	if v := kvm.Probe(); !v.Usable {
		t.Skipf("no KVM: %s", v.Why)
	}
	r.config.Accel, r.config.StateDir, r.config.CanaryKernel = accelAuto, r.dir, r.kernel
	auto := r.another()
	bounded(t, trialTimeout()+2*time.Second, func() { must(t, auto.Prepare(t.Context())) })
	verdict := auto.accel.verdict
	if verdict == nil || verdict.Why == "" {
		t.Fatalf("verdict %+v", verdict)
	}
	t.Logf("%+v", *verdict)
	r.config.Accel = accelKVM
	bounded(t, time.Second, func() { // it was kept
		if err := r.another().Prepare(t.Context()); (err == nil) != verdict.Usable {
			t.Errorf("the mode kvm says %v", err)
		}
	})
	r.backend = auto
	v := r.create("guest", r.spec())
	if got := v.private.Taps; got != nil {
		t.Errorf("taps %v", got)
	}
	want := map[bool]string{true: accelKVM, false: accelTCG}[verdict.Usable]
	if p, err := checkHandle(v.Handle()); err != nil || p.Accel != want {
		t.Errorf("the guest runs on %+v, %v", p, err)
	}
}

func TestCheck(t *testing.T) {
	must(t, onStub(t).backend.Check(t.Context()))
	for _, c := range []struct{ out, err string }{
		{"QEMU emulator version 7.2.22 (Debian 1:7.2+dfsg)", ""},
		{"QEMU emulator version 10.0.2", ""},
		{"QEMU emulator version 6.2.0", ""},
		{"QEMU emulator version 6.1.9", "too old"},
		{"QEMU emulator version 5.2.0", "too old"},
		{"GNU coreutils 9.1", "not QEMU"},
	} {
		if err := checkVersion(c.out); (err == nil) != (c.err == "") || err != nil && !strings.Contains(err.Error(), c.err) {
			t.Errorf("%q: %v", c.out, err)
		}
	}
	for _, binary := range []string{"/bin/true", "/bin/false", "/missing"} {
		b := &Backend{cfg: Config{Binary: binary}}
		if err := b.Check(t.Context()); types.KindOf(err) != types.KindPrecondition {
			t.Errorf("%s: %v", binary, err)
		}
	}
	t.Setenv("PATH", t.TempDir())
	b := &Backend{}
	wantKind(t, b.Check(t.Context()), types.KindPrecondition, "", "install")
}

func TestConfigThatIsWrong(t *testing.T) {
	for _, cfg := range []Config{{Accel: "hvf"}, {Accel: accelTCG, Binary: "qemu"}} {
		if _, err := New(cfg); err == nil {
			t.Errorf("%+v was taken", cfg)
		}
	}
}

func TestHostTSC(t *testing.T) {
	if khz := hostTSC(); khz < 500_000 || khz > 10_000_000 {
		t.Errorf("%d kHz", khz)
	}
}
