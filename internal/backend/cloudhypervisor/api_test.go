package cloudhypervisor

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"
)

// realVMM is a process of Cloud Hypervisor itself, with a client of its API and what it said on its event monitor.
type realVMM struct {
	*client
	dir string
	cmd *exec.Cmd

	mu     sync.Mutex // guards events
	events []vmmEvent
}

// startReal starts the Cloud Hypervisor that METALD_TEST_CLOUD_HYPERVISOR names. Up to the boot it needs no KVM that
// runs guests, only a /dev/kvm that opens.
func startReal(t *testing.T) *realVMM {
	t.Helper()
	binary := os.Getenv("METALD_TEST_CLOUD_HYPERVISOR")
	if binary == "" {
		t.Skip("METALD_TEST_CLOUD_HYPERVISOR does not name a Cloud Hypervisor")
	}
	dir, err := os.MkdirTemp("", "ch")
	must(t, err)
	events, theirs, err := os.Pipe()
	must(t, err)
	v := &realVMM{client: newClient(socketIn(dir)), dir: dir}
	v.cmd = exec.Command(binary, "--api-socket", "path="+filepath.Join(dir, socketName), "--event-monitor", "fd=3", "--no-shutdown")
	v.cmd.ExtraFiles = []*os.File{theirs}
	var stderr bytes.Buffer
	v.cmd.Stdout, v.cmd.Stderr = &stderr, &stderr
	v.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	must(t, v.cmd.Start())
	must(t, theirs.Close())
	var reading sync.WaitGroup
	reading.Go(func() {
		stream := newEventStream(func(e vmmEvent) { v.mu.Lock(); defer v.mu.Unlock(); v.events = append(v.events, e) })
		for buf := make([]byte, 4096); ; {
			n, err := events.Read(buf)
			stream.Write(buf[:n])
			if err != nil {
				return
			}
		}
	})
	t.Cleanup(func() {
		v.close()
		v.cmd.Process.Kill()
		v.cmd.Wait()
		reading.Wait()
		events.Close()
		os.RemoveAll(dir)
		if t.Failed() {
			t.Logf("Cloud Hypervisor said: %s", &stderr)
		}
	})
	waitFor(t, func() bool { _, err := v.ping(t.Context()); return err == nil })
	return v
}

func (v *realVMM) heard(source, name string) bool {
	v.mu.Lock()
	defer v.mu.Unlock()
	for _, e := range v.events {
		if e.is(source, name) && !e.Lost {
			return true
		}
	}
	return false
}

// wantRefusal checks that Cloud Hypervisor refuses, and says why.
func wantRefusal(t *testing.T, err error, cause string) {
	t.Helper()
	var f *fault
	if !errors.As(err, &f) || f.cause() != cause {
		t.Errorf("error %v, want a refusal because of %q", err, cause)
	}
}

func TestRealAPI(t *testing.T) {
	v, ctx := startReal(t), patient(t)
	p, err := v.ping(ctx)
	must(t, err)
	told, err := parseVersion(p.Version)
	must(t, err)
	must(t, checkVersion(told))
	if built, err := parseVersion(p.BuildVersion); err != nil || built.Major != told.Major || p.PID != int64(v.cmd.Process.Pid) {
		t.Errorf("%+v of process %d: %v", p, v.cmd.Process.Pid, err)
	}
	_, err = v.info(ctx)
	wantRefusal(t, err, "VM is not created")
	_, err = v.counters(ctx)
	wantRefusal(t, err, "VM is not running")
	wantRefusal(t, v.pause(ctx), "VM is not running")
	must(t, v.deleteVM(ctx))

	for name, req := range wanted() {
		plan, err := translate(req, surroundings{})
		must(t, err)
		plan.config.Payload.Kernel = os.Args[0] // a program is no kernel; it is looked at when the guest is to start
		must(t, v.create(ctx, plan.config))
		for _, n := range plan.networks {
			must(t, v.addNet(ctx, n))
		}
		i, err := v.info(ctx)
		must(t, err)
		if i.State != stateCreated {
			t.Errorf("%s: %+v", name, i)
		}
		wantRefusal(t, v.create(ctx, plan.config), "VM is already created")
		wantRefusal(t, v.powerButton(ctx), "VM is not running")
		if err := v.boot(ctx); err == nil {
			t.Errorf("%s: a program was booted", name)
		}
		must(t, v.deleteVM(ctx))
		waitFor(t, func() bool { return v.heard("vm", "deleted") })
	}
	waitFor(t, func() bool { return v.heard("vm", "booting") })
	if v.heard("vm", "booted") {
		t.Error("a program was booted")
	}
	must(t, v.shutdownVMM(ctx))
	waitFor(t, func() bool { return v.heard("vmm", "shutdown") })
}

// A tap that is sent as an open file is taken, and is Cloud Hypervisor's own then.
func TestRealTapAsOpenFile(t *testing.T) {
	v, ctx := startReal(t), patient(t)
	plan, err := translate(wanted()["everything"], surroundings{})
	must(t, err)
	must(t, v.create(ctx, plan.config))
	file, err := os.Open(os.DevNull)
	must(t, err)
	defer file.Close()
	must(t, v.addNet(ctx, plan.networks[0].overFiles(), file))
	wantRefusal(t, v.addNet(ctx, plan.networks[0].overFiles(), file), "Identifier net0 is not unique")
	must(t, v.shutdownVMM(ctx))
	done := make(chan error, 1)
	go func() { done <- v.cmd.Wait() }()
	select {
	case err := <-done:
		must(t, err)
	case <-time.After(patience):
		t.Error("it did not end")
	}
}
