package cloudhypervisor

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/unkeyed/unkey/go/deploy/metald/internal/backend/backendtest"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/backend/cage"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/backend/types"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/guest"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/host/cgroup"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/vm/lifecycle"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/vmmprocess/jailer"
)

// victim is what a VMM that was taken over would like to have: a process, files and a socket that are not its own.
type victim struct {
	dir     string
	process *exec.Cmd
	called  chan struct{} // somebody connected to the socket
}

func newVictim(t *testing.T) *victim {
	t.Helper()
	v := &victim{dir: backendtest.Dir(t), called: make(chan struct{}, 100), process: exec.Command("sleep", "3600")}
	must(t, v.process.Start())
	t.Cleanup(func() { must(t, v.process.Process.Kill()); _ = v.process.Wait() })
	backendtest.Write(t, filepath.Join(v.dir, "secret"), []byte("secret"))
	must(t, unix.Mkfifo(filepath.Join(v.dir, "fifo"), 0o600))
	listener, err := net.Listen("unix", filepath.Join(v.dir, "vmm.socket"))
	must(t, err)
	listening := make(chan struct{})
	go func() {
		defer close(listening)
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			conn.Close()
			v.called <- struct{}{}
		}
	}()
	t.Cleanup(func() { listener.Close(); <-listening })
	return v
}

// wantUnharmed checks that nothing of it was touched.
func (v *victim) wantUnharmed(t *testing.T) {
	t.Helper()
	if !lives(v.process.Process.Pid) {
		t.Error("another's process was killed")
	}
	if text, err := os.ReadFile(filepath.Join(v.dir, "secret")); err != nil || string(text) != "secret" {
		t.Errorf("another's file has %q, %v", text, err)
	}
	for _, name := range []string{"secret", "fifo", "vmm.socket"} {
		info, err := os.Lstat(filepath.Join(v.dir, name))
		must(t, err)
		if st := info.Sys().(*syscall.Stat_t); st.Uid != 0 {
			t.Errorf("another's %s was given to uid %d", name, st.Uid)
		}
	}
	if len(v.called) > 0 {
		t.Error("another's socket was talked to")
	}
}

// plant puts a link to what is not the VMM's in the place of name.
func (v *testVM) plant(name, target string) {
	v.t.Helper()
	path := filepath.Join(v.home.root(), name)
	if _, err := os.Lstat(path); err == nil {
		must(v.t, os.Rename(path, path+"-away"))
	}
	must(v.t, os.Symlink(target, path))
	must(v.t, os.Lchown(path, int(v.req.UID), int(v.req.GID)))
}

func TestPlantedLinksAreNotFollowed(t *testing.T) {
	for name, target := range map[string]string{
		socketsDir: "", apiSocket: "vmm.socket", cage.Disk(0): "secret", cage.Kernel: "secret",
	} {
		t.Run(strings.ReplaceAll(name, "/", "-"), func(t *testing.T) {
			r := onStub(t, true)
			other := newVictim(t)
			v := r.boot("taken")
			v.Release()
			v.plant(name, filepath.Join(other.dir, target))
			ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
			defer cancel()
			bounded(t, 5*time.Second, func() {
				m, err := r.another().Adopt(ctx, types.AdoptRequest{Handle: v.Handle(), Spec: v.req.Spec, Console: v.screen})
				switch harmless := name == cage.Disk(0) || name == cage.Kernel; {
				case err == nil && !harmless:
					t.Error("it was adopted")
				case err != nil && (harmless || errors.Is(err, types.ErrGone)):
					t.Errorf("adopt: %v", err)
				}
				if err == nil {
					must(t, m.Destroy(t.Context()))
				}
			})
			backendtest.Reap(t, r.another(), v.Handle())
			v.wantGone()
			other.wantUnharmed(t)
		})
	}
}

// A VMM that is taken over while metald runs: its end is metald's to bring about all the same.
func TestDestroyOfARootFullOfLinks(t *testing.T) {
	r := onStub(t, true)
	other := newVictim(t)
	v := r.boot("taken")
	for _, name := range []string{cage.Disk(0), apiSocket + ".lock", "dev", "x"} {
		v.plant(name, filepath.Join(other.dir, "secret"))
	}
	v.plant(socketsDir, other.dir)
	must(t, v.Destroy(t.Context()))
	v.wantGone()
	other.wantUnharmed(t)
}

// A socket of another VM in the place of its own, which the VMM's user could not even put there.
func TestASocketOfAnotherVMMIsNotTalkedTo(t *testing.T) {
	r := onStub(t, true)
	mine, other := r.boot("mine"), r.boot("other")
	mine.Release()
	mineRoot, otherRoot := mine.home.root(), other.home.root()
	must(t, os.Remove(filepath.Join(mineRoot, apiSocket)))
	must(t, os.Link(filepath.Join(otherRoot, apiSocket), filepath.Join(mineRoot, apiSocket)))
	_, err := r.another().Adopt(t.Context(), types.AdoptRequest{Handle: mine.Handle(), Spec: mine.req.Spec, Console: mine.screen})
	wantKind(t, err, types.KindUnavailable, "", "listens on the API's socket")
	other.want(lifecycle.Running)
}

func wantKind(t testing.TB, err error, kind types.Kind, field, says string) {
	t.Helper()
	var e *types.Error
	if !errors.As(err, &e) || e.Kind != kind || e.Field != field || !strings.Contains(err.Error(), says) {
		t.Errorf("error %v (%v), want kind %v of field %q that says %q", err, types.KindOf(err), kind, field, says)
	}
}

func TestIDsForTraversal(t *testing.T) {
	r := onStub(t, true)
	for _, id := range []string{"../../etc", "..", "a/b", "-x", "a_b", "a\x00b", ""} {
		req := r.request("traversal", r.spec())
		req.ID = types.VMID(id)
		if err := r.refuse(t.Context(), req); types.KindOf(err) != types.KindInvalid {
			t.Errorf("%q: %v", id, err)
		}
	}
}

func TestTheLongestID(t *testing.T) {
	onStubs(t, func(t *testing.T, r *rig) {
		id := strings.Repeat("long", 16)
		v := r.boot(id)
		v.Release()
		v = v.adopt(r.another())
		v.want(lifecycle.Running)
		must(t, v.Pause(t.Context()))
		twin := r.create(id[:63]+"x", r.spec()) // has a jail of its own
		if v.Handle().Process.PID == twin.Handle().Process.PID {
			t.Error("one VMM for two VMs")
		}
		twin.want(lifecycle.Created)
	})
}

// refuse checks that a create fails and leaves nothing. It returns the error.
func (r *rig) refuse(ctx context.Context, req types.CreateRequest) error {
	r.t.Helper()
	before, files := r.leftovers(), openFiles(r.t)
	m, err := r.backend.Create(ctx, req)
	if err == nil {
		must(r.t, m.Destroy(context.Background()))
		r.t.Fatal("it was created")
	}
	r.t.Log(err)
	if _, err := os.Lstat(req.RunDir); !os.IsNotExist(err) {
		r.t.Errorf("%s is left (%v)", req.RunDir, err)
	}
	if after := r.leftovers(); len(after) != len(before) {
		r.t.Errorf("left: %v", after)
	}
	if left := children(); len(left) > 0 {
		r.t.Errorf("left: %v", left)
	}
	if now := openFiles(r.t); now > files {
		r.t.Errorf("%d files are open, and %d were", now, files)
	}
	return err
}

// What is there already is somebody's: it is neither used nor removed.
func TestWhatIsThereAlreadyIsRefused(t *testing.T) {
	r := onStub(t, true)
	req := r.request("stale", r.spec())
	must(t, os.Mkdir(req.RunDir, 0o700))
	backendtest.Write(t, filepath.Join(req.RunDir, "mine"), nil)
	if _, err := r.backend.Create(t.Context(), req); !errors.Is(err, os.ErrExist) {
		t.Errorf("error %v", err)
	}
	if _, err := os.Lstat(filepath.Join(req.RunDir, "mine")); err != nil {
		t.Errorf("what was there is gone: %v", err)
	}
	must(t, os.RemoveAll(req.RunDir))

	must(t, r.backend.cage.Open())
	_, err := r.backend.cage.Parent().Make(jailer.IDOf("stale", 1), cgroup.Limits{})
	must(t, err)
	if err := r.refuse(t.Context(), req); !errors.Is(err, os.ErrExist) {
		t.Errorf("error %v", err)
	}
	must(t, r.backend.Sweep(t.Context(), nil))
	r.createFrom(req).want(lifecycle.Created)
}

func TestAVMMThatNeverOpensItsSocket(t *testing.T) {
	onStubs(t, func(t *testing.T, r *rig) {
		r.knobs("stub.nosocket=1")
		ctx, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
		defer cancel()
		bounded(t, 2*time.Second, func() {
			err := r.refuse(ctx, r.request("mute", r.spec()))
			wantKind(t, err, types.KindCanceled, "", "did not make its API's socket")
		})
	})
}

func TestAVMMThatDiesAtOnce(t *testing.T) {
	onStubs(t, func(t *testing.T, r *rig) {
		for i, code := range []int{1, 3} {
			r := &rig{t: t, dir: backendtest.Dir(t), kernel: r.kernel, root: r.root, config: r.config, backend: r.backend}
			r.knobs(fmt.Sprintf("stub.die=%d", code))
			bounded(t, 3*time.Second, func() {
				err := r.refuse(t.Context(), r.request(fmt.Sprintf("dies%d", i), r.spec()))
				wantKind(t, err, types.KindUnavailable, "", "the stand-in was told to die")
			})
		}
	})
}

// One that dies in the middle of its configuration has said nothing, but is not called mute.
func TestAVMMThatDiesWhileItIsConfigured(t *testing.T) {
	onStubs(t, func(t *testing.T, r *rig) {
		r.knobs("stub.mute=PUT:/vm.create")
		req := r.request("dies", r.spec())
		pid := make(chan int, 1)
		req.Commit = func(h types.Handle) error { pid <- h.Process.PID; return nil }
		go func() {
			pid := <-pid
			socket := fmt.Sprintf("/proc/%d/cwd/%s", pid, apiSocket)
			for deadline := time.Now().Add(patience); time.Now().Before(deadline); <-time.After(time.Millisecond) {
				if _, err := os.Lstat(socket); err == nil {
					break
				}
			}
			_ = syscall.Kill(pid, syscall.SIGKILL)
		}()
		bounded(t, 4*time.Second, func() {
			err := r.refuse(t.Context(), req)
			wantKind(t, err, types.KindUnavailable, "", "ended before it could be talked to")
		})
	})
}

func TestRepliesThatAreNone(t *testing.T) {
	for knob, says := range map[string]string{
		"stub.half=1": "the connection to Cloud Hypervisor has ended", "stub.garbage=1": "", "stub.mute=GET:/vmm.ping": "no answer from Cloud Hypervisor",
	} {
		t.Run(knob[len("stub."):], func(t *testing.T) {
			onStubs(t, func(t *testing.T, r *rig) {
				r.knobs(knob)
				bounded(t, callTimeout+2*time.Second, func() {
					wantKind(t, r.refuse(t.Context(), r.request("odd", r.spec())), types.KindUnavailable, "", says)
				})
			})
		})
	}
}

func TestAVMMThatFloodsItsLog(t *testing.T) {
	onStubs(t, func(t *testing.T, r *rig) {
		r.knobs("stub.noise=4096", "stub.chatter=1")
		v := r.boot("floods")
		must(t, v.Pause(t.Context()))
		must(t, v.Destroy(t.Context()))
		if words := v.words.Text(); words == "" || len(words) > 2<<10 {
			t.Errorf("%d bytes of last words: %q", len(words), words)
		}
	})
}

// A guest that fills its console while metald is away goes on, and is heard again.
func TestAConsoleThatFillsWhileMetaldIsAway(t *testing.T) {
	onStubs(t, func(t *testing.T, r *rig) {
		v := r.boot("floods", "metald.flood=1")
		v.Release()
		v.awaitUnread(consoleName, 1<<19)
		v.screen = new(backendtest.Screen)
		v = v.adopt(r.another())
		v.want(lifecycle.Running)
		v.screen.WaitFor(t, guestPatience, guest.Flood)
		eventually(t, "more than was kept is heard", func() bool { return len(v.screen.String()) > 1<<19 })
	})
}
