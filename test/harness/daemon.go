// Package harness starts the real metald binary for tests and benchmarks: its own state directory, a free
// loopback port, ended by pid.
package harness

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"connectrpc.com/connect"

	pb "github.com/unkeyed/unkey/go/deploy/metald/gen/vmprovisioner/v1"
	"github.com/unkeyed/unkey/go/deploy/metald/gen/vmprovisioner/v1/vmprovisionerv1connect"
)

// Options say how to start a metald. StateDir and AssetsDir are made where they are empty.
type Options struct {
	StateDir  string
	AssetsDir string
	Env       []string // UNKEY_METALD_… variables beyond those that follow from the fields above
	UID       uint32   // user to run as; 0: the test's own
	Under     []string // a command that executes, in its own process, the one that is appended; nil starts metald itself
}

// Daemon is one running metald process.
type Daemon struct {
	URL      string
	StateDir string
	Client   vmprovisionerv1connect.VmServiceClient

	cmd    *exec.Cmd
	log    *syncBuffer
	exited chan struct{}
}

var build = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "metald-bin")
	if err != nil {
		return "", err
	}
	if err := os.Chmod(dir, 0o755); err != nil { // for Options.UID
		return "", err
	}
	path := filepath.Join(dir, "metald")
	if built := os.Getenv("METALD_TEST_METALD"); built != "" { // where there is no Go to build it with
		return path, os.Symlink(built, path)
	}
	cmd := exec.Command("go", "build", "-o", path, "github.com/unkeyed/unkey/go/deploy/metald/cmd/api")
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build metald: %w\n%s", err, out)
	}
	return path, nil
})

// Binary builds metald once per test process and returns its path.
func Binary(tb testing.TB) string {
	tb.Helper()
	path, err := build()
	if err != nil {
		tb.Fatal(err)
	}
	return path
}

// Remove removes the binary; a TestMain calls it last.
func Remove() {
	if path, err := build(); err == nil {
		_ = os.RemoveAll(filepath.Dir(path))
	}
}

// Start starts a metald and waits until it is ready. It is stopped when the test ends.
func Start(tb testing.TB, o Options) *Daemon {
	tb.Helper()
	if o.StateDir == "" {
		o.StateDir = tb.TempDir()
	}
	d := &Daemon{StateDir: o.StateDir, log: &syncBuffer{}, exited: make(chan struct{})}
	port := FreePort(tb)
	d.URL = fmt.Sprintf("http://127.0.0.1:%d", port)
	argv := append(slices.Clone(o.Under), Binary(tb))
	d.cmd = exec.Command(argv[0], argv[1:]...)
	d.cmd.Env = append([]string{
		"GOTRACEBACK=all",
		"PATH=" + os.Getenv("PATH"),
		"UNKEY_METALD_PORT=" + strconv.Itoa(port),
		"UNKEY_METALD_STATE_DIR=" + o.StateDir,
		"UNKEY_METALD_ASSETS_DIR=" + o.AssetsDir,
	}, o.Env...)
	d.cmd.Stdout, d.cmd.Stderr = d.log, d.log
	d.cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if o.UID != 0 {
		d.cmd.SysProcAttr.Credential = &syscall.Credential{Uid: o.UID, Gid: o.UID}
	}
	if err := d.cmd.Start(); err != nil {
		tb.Fatal(err)
	}
	go func() {
		_ = d.cmd.Wait()
		close(d.exited)
	}()
	tb.Cleanup(func() {
		d.Stop(tb)
		if tb.Failed() {
			tb.Logf("metald said:\n%s", d.Log())
		}
	})
	d.Client = vmprovisionerv1connect.NewVmServiceClient(&http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 64}}, d.URL)
	d.awaitReady(tb)
	return d
}

func (d *Daemon) awaitReady(tb testing.TB) {
	tb.Helper()
	deadline := time.Now().Add(30 * time.Second)
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		resp, err := http.Get(d.URL + "/readyz")
		if err == nil {
			resp.Body.Close()
			if resp.StatusCode == http.StatusOK {
				return
			}
		}
		select {
		case <-d.exited:
			tb.Fatalf("metald ended before it was ready:\n%s", d.Log())
		case <-tick.C:
		}
		if time.Now().After(deadline) {
			tb.Fatalf("metald was not ready in time (last error %v):\n%s", err, d.Log())
		}
	}
}

// PID is the process id of metald.
func (d *Daemon) PID() int { return d.cmd.Process.Pid }

// Log is what metald wrote so far.
func (d *Daemon) Log() string { return d.log.String() }

// Metald runs another metald, with arguments and this one's environment, to its end, and returns what it said. It fails the
// test where that is no success.
func (d *Daemon) Metald(tb testing.TB, args ...string) string {
	tb.Helper()
	cmd := exec.Command(Binary(tb), args...)
	cmd.Env = d.cmd.Env
	out, err := cmd.CombinedOutput()
	if err != nil {
		tb.Errorf("metald %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return string(out)
}

// Kill ends metald with SIGKILL and waits; its VMs run on.
func (d *Daemon) Kill(tb testing.TB) { d.signal(tb, syscall.SIGKILL) }

// Stop ends metald with SIGTERM and waits; its VMs run on. Repeatable.
func (d *Daemon) Stop(tb testing.TB) { d.signal(tb, syscall.SIGTERM) }

// Goroutines ends metald with SIGQUIT, on which the Go runtime prints every goroutine, and returns their stacks.
func (d *Daemon) Goroutines(tb testing.TB) []string {
	tb.Helper()
	d.signal(tb, syscall.SIGQUIT)
	var stacks []string
	for block := range strings.SplitSeq(d.Log(), "\n\n") {
		if strings.HasPrefix(block, "goroutine ") {
			stacks = append(stacks, block)
		}
	}
	return stacks
}

func (d *Daemon) signal(tb testing.TB, sig syscall.Signal) {
	tb.Helper()
	select {
	case <-d.exited:
		return
	default:
	}
	_ = d.cmd.Process.Signal(sig) // it may end at this very moment
	select {
	case <-d.exited:
	case <-time.After(30 * time.Second):
		_ = d.cmd.Process.Kill()
		<-d.exited
		tb.Errorf("metald did not end within 30 s of signal %v:\n%s", sig, d.Log())
	}
}

// FreePort returns a loopback TCP port that nobody listens on at the moment.
func FreePort(tb testing.TB) int {
	tb.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		tb.Fatal(err)
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port
}

// Code is the Connect code of err, 0 for nil.
func Code(err error) connect.Code {
	if err == nil {
		return 0
	}
	return connect.CodeOf(err)
}

// Eventually calls ok until it returns true; it fails the test, saying what was awaited, after timeout.
func Eventually(tb testing.TB, timeout time.Duration, what string, ok func() bool) {
	tb.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-ctx.Done():
			tb.Fatalf("not within %s: %s", timeout, what)
		case <-tick.C:
		}
	}
}

type syncBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (b *syncBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

func (b *syncBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}

// DeleteAll deletes every VM, and fails the test for what is left of any in the state directory.
func (d *Daemon) DeleteAll(tb testing.TB) {
	tb.Helper()
	ctx := context.Background()
	list, err := d.Client.ListVms(ctx, connect.NewRequest(&pb.ListVmsRequest{PageSize: 1000}))
	if err != nil {
		tb.Error(err)
		return
	}
	for _, vm := range list.Msg.Vms {
		if _, err := d.Client.DeleteVm(ctx, connect.NewRequest(&pb.DeleteVmRequest{VmId: vm.VmId, Force: true})); err != nil {
			tb.Errorf("delete %s: %v", vm.VmId, err)
		}
	}
	for _, room := range []string{"vms", "run", "jail/firecracker"} {
		left, err := os.ReadDir(filepath.Join(d.StateDir, room))
		if err != nil && !os.IsNotExist(err) {
			tb.Error(err)
		}
		for _, entry := range left {
			tb.Errorf("left in %s: %s", room, entry.Name())
		}
	}
}
