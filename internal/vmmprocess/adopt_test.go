package vmmprocess

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/unkeyed/unkey/go/deploy/metald/internal/backend/types"
)

func TestAdoptOfWhatIsNotThatProcess(t *testing.T) {
	s := newSupervisor(t)
	v := startVMM(t, s, 0, nil)
	id := v.Identity()
	with := func(change func(*types.ProcessIdentity)) types.ProcessIdentity {
		other := id
		change(&other)
		return other
	}
	for name, other := range map[string]types.ProcessIdentity{
		"another boot":  with(func(id *types.ProcessIdentity) { id.BootID = "00000000-0000-0000-0000-000000000000" }),
		"a reused pid":  with(func(id *types.ProcessIdentity) { id.StartTicks-- }),
		"a later start": with(func(id *types.ProcessIdentity) { id.StartTicks++ }),
		"no pid":        with(func(id *types.ProcessIdentity) { id.PID = 0 }),
		"a group":       with(func(id *types.ProcessIdentity) { id.PID = -id.PID }),
		"never existed": with(func(id *types.ProcessIdentity) { id.PID = 1 << 22 }),
		"a thread":      with(func(id *types.ProcessIdentity) { id.PID = threadOf(t, id.PID) }),
		"zombie":        zombie(t, s),
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := s.Adopt(other); !errors.Is(err, types.ErrGone) {
				t.Errorf("error %v, want %v", err, types.ErrGone)
			}
			if !alive(id.PID) {
				t.Fatal("the live process was ended")
			}
		})
	}
}

// A pid that the kernel gave to another process must not fool us, nor must that process come to harm.
func TestAdoptOfAReusedPid(t *testing.T) {
	const next = "/proc/sys/kernel/ns_last_pid"
	if _, err := os.Stat(next); err != nil {
		t.Skip("the kernel cannot be told which pid comes next: no CONFIG_CHECKPOINT_RESTORE")
	}
	s := newSupervisor(t)
	old := startSleep(t, s)
	id := old.Identity()
	if err := old.Kill(t.Context()); err != nil {
		t.Fatal(err)
	}
	for range 200 { // others on this machine take pids as well
		if err := os.WriteFile(next, []byte(strconv.Itoa(id.PID-1)), 0); err != nil {
			t.Skipf("the kernel cannot be told which pid comes next: %v", err)
		}
		p, err := s.Start(t.Context(), sleepCommand(t), accept)
		if err != nil {
			t.Fatal(err)
		}
		if p.Identity().PID != id.PID || p.Identity().StartTicks == id.StartTicks { // the same tick: too fast for real life
			if err := p.Kill(t.Context()); err != nil {
				t.Fatal(err)
			}
			continue
		}
		cleanUp(t, p)
		if _, err := s.Adopt(id); !errors.Is(err, types.ErrGone) {
			t.Errorf("error %v, want %v", err, types.ErrGone)
		}
		if !alive(id.PID) {
			t.Error("the process that has the pid now was ended")
		}
		return
	}
	t.Skip("too many processes are started on this machine to reuse a pid")
}

func TestAdoptEndsWhatNeverBecameTheVMM(t *testing.T) {
	s := newSupervisor(t)
	t.Run("gate", func(t *testing.T) {
		p, gate, err := s.spawn(sleepCommand(t))
		if err != nil {
			t.Fatal(err)
		}
		defer gate.Close()
		defer p.abort()
		id := p.Identity()
		st, err := readStat(id.PID)
		if err != nil {
			t.Fatal(err)
		}
		exe, err := statExecutable(sleepCommand(t).Path)
		if err != nil {
			t.Fatal(err)
		}
		id.StartTicks, id.ExeDevice, id.ExeInode = st.StartTicks, exe.Device, exe.Inode
		if _, err := s.Adopt(id); !errors.Is(err, types.ErrGone) {
			t.Errorf("error %v, want %v", err, types.ErrGone)
		}
		if alive(id.PID) {
			t.Error("the gate is still there")
		}
	})
	t.Run("another executable", func(t *testing.T) {
		v := startVMM(t, s, 0, nil)
		id := v.Identity()
		id.ExeInode++
		if _, err := s.Adopt(id); !errors.Is(err, types.ErrGone) {
			t.Errorf("error %v, want %v", err, types.ErrGone)
		}
		if alive(id.PID) {
			t.Error("the process is still there")
		}
	})
}

// metald dies at each point of Start, and the next one finds a VMM with a record or no VMM.
func TestMetaldDiesInStart(t *testing.T) {
	for point, lives := range map[string]bool{"before-record": false, "after-record": false, "started": true} {
		t.Run(point, func(t *testing.T) {
			m := startMetald(t, point)
			m.wait(t)
			records := m.records(t)
			if want := point != "before-record"; (len(records) == 1) != want {
				t.Fatalf("records %v", records)
			}
			eventually(t, "every process without a record has ended", func() bool { return len(m.strays(records)) == 0 })
			s := newSupervisor(t)
			for _, id := range records {
				p, err := s.Adopt(id)
				if !lives {
					if !errors.Is(err, types.ErrGone) {
						t.Errorf("adopt: %v, want %v", err, types.ErrGone)
					}
					continue
				}
				if err != nil {
					t.Fatal(err)
				}
				if err := p.Kill(t.Context()); err != nil {
					t.Fatal(err)
				}
				wantStatus(t, p, 0, syscall.SIGKILL)
			}
			eventually(t, "no process is left", func() bool { return len(m.vmms()) == 0 })
		})
	}
}

// metald dies 100 times at a random moment. Every process of it that lives on has a record, and can be adopted
// by it; nothing is left after that.
func TestMetaldDiesAtRandom(t *testing.T) {
	s := newSupervisor(t)
	for range 100 {
		m := startMetald(t, "no")
		time.Sleep(time.Duration(rand.Int64N(int64(15 * time.Millisecond)))) // the random moment
		if err := m.cmd.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		m.wait(t)
		records := m.records(t)
		eventually(t, "every process without a record has ended", func() bool { return len(m.strays(records)) == 0 })
		for _, id := range records {
			p, err := s.Adopt(id)
			if errors.Is(err, types.ErrGone) {
				continue // it died between the record and the gate
			}
			if err != nil {
				t.Fatal(err)
			}
			if err := p.Kill(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		eventually(t, "no process is left", func() bool { return len(m.vmms()) == 0 })
	}
}

// The exit code of a process that is not our child, as well as the kernel tells it.
func TestTheEndOfAnAdoptedProcessIsSeen(t *testing.T) {
	s := newSupervisor(t)
	readyR, readyW := pipe(t)
	holdR, holdW := pipe(t)
	// A shell starts it and ends, so that it becomes the child of another process.
	cmd := exec.Command("/bin/sh", "-c", `"$0" 7 >/dev/null 2>&1 & echo $!`, self(t))
	cmd.Env = []string{roleEnv + "=vmm"}
	cmd.ExtraFiles = []*os.File{nil, readyW, holdR}
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	readyW.Close()
	holdR.Close()
	if _, err := readyR.Read(make([]byte, 3)); err != nil {
		t.Fatal(err)
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(out)))
	if err != nil {
		t.Fatal(err)
	}
	st, err := readStat(pid)
	if err != nil {
		t.Fatal(err)
	}
	exe, err := statExecutable(self(t))
	if err != nil {
		t.Fatal(err)
	}
	p, err := s.Adopt(types.ProcessIdentity{PID: pid, StartTicks: st.StartTicks, BootID: s.bootID, ExeDevice: exe.Device, ExeInode: exe.Inode})
	if err != nil {
		t.Fatal(err)
	}
	cleanUp(t, p)
	if p.child {
		t.Fatal("it is our child: this test tests nothing")
	}
	holdW.Close()
	awaitExit(t, p)
	wantStatus(t, p, 7, 0)
}

// wantStatus checks how an adopted process ended, which kernels before 6.15 do not tell in every case.
func wantStatus(t *testing.T, p *Process, code int, sig syscall.Signal) {
	t.Helper()
	status, known := p.Status()
	if !known {
		if info := (unix.PidfdInfo{Mask: unix.PIDFD_INFO_EXIT}); pidfdInfoWorks(&info) {
			t.Error("the status is not known, and the kernel has PIDFD_INFO_EXIT")
		}
		return
	}
	if sig != 0 && (!status.Signaled() || status.Signal() != sig) || sig == 0 && status.ExitStatus() != code {
		t.Errorf("status %#x, want exit code %d or signal %d", status, code, sig)
	}
}

func pidfdInfoWorks(info *unix.PidfdInfo) bool {
	pid, err := syscall.ForkExec("/bin/true", []string{"true"}, &syscall.ProcAttr{})
	if err != nil {
		return false
	}
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return false
	}
	defer unix.Close(fd)
	if err := killChild(pid); err != nil {
		return false
	}
	return unix.IoctlPidfdInfo(fd, info) == nil && info.Mask&unix.PIDFD_INFO_EXIT != 0
}

// metald is a process of role metald.
type metald struct {
	cmd    *exec.Cmd
	dir    string
	marker string // the argument of its VMMs, and of nobody else's
}

func startMetald(t *testing.T, fatal string) *metald {
	t.Helper()
	sleepCommand(t) // skips where there is none
	m := &metald{dir: t.TempDir(), marker: fmt.Sprintf("3600.%d", 1e9+rand.Int64N(1e9))}
	m.cmd = exec.Command(self(t), m.dir, m.marker, fatal)
	m.cmd.Env = append(os.Environ(), roleEnv+"=metald")
	m.cmd.Stderr = os.Stderr
	out, err := m.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := m.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		for _, pid := range m.vmms() {
			t.Errorf("process %d was left", pid)
			syscall.Kill(pid, syscall.SIGKILL)
		}
	})
	if line, err := bufio.NewReader(out).ReadString('\n'); line != "up\n" {
		t.Fatalf("metald did not come up: %q, %v", line, err)
	}
	return m
}

// wait waits for the end of metald.
func (m *metald) wait(t *testing.T) {
	t.Helper()
	timer := time.AfterFunc(limit, func() { m.cmd.Process.Kill() })
	defer timer.Stop()
	var exit *exec.ExitError
	err := m.cmd.Wait()
	if !errors.As(err, &exit) || exit.Sys().(syscall.WaitStatus).Signal() != syscall.SIGKILL || !timer.Stop() {
		t.Fatalf("metald: %v, want that it was killed", err)
	}
}

func (m *metald) records(t *testing.T) map[int]types.ProcessIdentity {
	t.Helper()
	paths, err := filepath.Glob(filepath.Join(m.dir, "*.json"))
	if err != nil {
		t.Fatal(err)
	}
	records := map[int]types.ProcessIdentity{}
	for _, path := range paths {
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		var id types.ProcessIdentity
		if err := json.Unmarshal(b, &id); err != nil {
			t.Fatal(err)
		}
		records[id.PID] = id
	}
	return records
}

// vmms returns the live processes that this metald started, VMMs and gates.
func (m *metald) vmms() []int {
	var pids []int
	paths, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, path := range paths {
		b, err := os.ReadFile(path)
		pid, _ := strconv.Atoi(filepath.Base(filepath.Dir(path)))
		if err == nil && strings.HasSuffix(string(b), "\x00"+m.marker+"\x00") && alive(pid) {
			pids = append(pids, pid)
		}
	}
	return pids
}

// strays returns the live processes that have no record.
func (m *metald) strays(records map[int]types.ProcessIdentity) []int {
	var pids []int
	for _, pid := range m.vmms() {
		if _, ok := records[pid]; !ok {
			pids = append(pids, pid)
		}
	}
	return pids
}

// threadOf returns the id of a thread of pid other than its first.
func threadOf(t *testing.T, pid int) int {
	t.Helper()
	entries, err := os.ReadDir(procPath(pid, "task"))
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if id, err := strconv.Atoi(e.Name()); err == nil && id != pid {
			return id
		}
	}
	t.Fatal("a Go program with one thread")
	return 0
}

// zombie returns the identity of a child that has ended and that nobody has waited for.
func zombie(t *testing.T, s *Supervisor) types.ProcessIdentity {
	t.Helper()
	pid, err := syscall.ForkExec("/bin/true", []string{"true"}, &syscall.ProcAttr{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := killChild(pid); err != nil {
			t.Error(err)
		}
	})
	eventually(t, "it has ended", func() bool { return !alive(pid) })
	st, err := readStat(pid)
	if err != nil {
		t.Fatal(err)
	}
	return types.ProcessIdentity{PID: pid, StartTicks: st.StartTicks, BootID: s.bootID}
}
