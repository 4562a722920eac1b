package vmmprocess

import (
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/unkeyed/unkey/go/deploy/metald/internal/backend/types"
)

// burnCommand uses some CPU time, and ends.
func burnCommand(t *testing.T) Command {
	t.Helper()
	path, err := exec.LookPath("dd")
	if err != nil {
		t.Skip("there is no dd(1) on this machine")
	}
	return Command{Path: path, Args: []string{"if=/dev/zero", "of=/dev/null", "bs=1M", "count=1000"}}
}

// The clock of a zombie is that of the process, to the nanosecond; wait tells it in microseconds.
func TestTheClockOfAZombieIsWhatWaitTells(t *testing.T) {
	for range 20 {
		cmd := exec.Command(burnCommand(t).Path, "if=/dev/zero", "of=/dev/null", "bs=1M", "count=200")
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		eventually(t, "it is a zombie", func() bool {
			st, err := readStat(cmd.Process.Pid)
			return err == nil && st.State == 'Z'
		})
		settled := settledClock(t, cmd.Process.Pid)
		var usage syscall.Rusage
		if _, err := syscall.Wait4(cmd.Process.Pid, nil, 0, &usage); err != nil {
			t.Fatal(err)
		}
		waited := time.Duration(usage.Utime.Nano() + usage.Stime.Nano())
		if apart := settled - waited; settled == 0 || apart < 0 || apart > 2*time.Microsecond { // two figures, each rounded down
			t.Errorf("the zombie's clock said %s and wait %s", settled, waited)
		}
		if _, err := CPUTime(cmd.Process.Pid); err == nil {
			t.Error("a process that was reaped has a clock")
		}
	}
}

// settledClock is the clock once it stands: a process is a zombie some microseconds before it leaves its CPU.
func settledClock(t *testing.T, pid int) time.Duration {
	t.Helper()
	last := time.Duration(-1)
	eventually(t, "its clock stands", func() bool {
		now, err := CPUTime(pid)
		if err != nil {
			t.Fatal(err)
		}
		same := now == last
		last = now
		return same
	})
	return last
}

func TestWhatAChildUsedInAllIsKnown(t *testing.T) {
	s := newSupervisor(t)
	p, err := s.Start(t.Context(), burnCommand(t), accept)
	if err != nil {
		t.Fatal(err)
	}
	cleanUp(t, p)
	var seen time.Duration
	for ended := false; !ended; {
		now, err := CPUTime(p.Identity().PID)
		select {
		case <-p.Exited():
			ended = true // and its pid is another's, perhaps
		default:
			if err == nil && now < seen {
				t.Errorf("the clock fell from %s to %s", seen, now)
			}
			seen = now
		}
	}
	used, known := p.FinalCPU()
	if !known || used < seen || used < time.Millisecond {
		t.Errorf("it used %s in all (known: %v), and %s had been seen", used, known, seen)
	}
}

// Where there is a cgroup, too, it counts the same: what the gate did before it had joined is in the clock only.
func TestTheClockAndTheCgroupAgree(t *testing.T) {
	needRoot(t)
	group := cpuacctGroup(t)
	s := newSupervisor(t)
	c := burnCommand(t)
	c.Joins = []string{group + "/tasks"}
	p, err := s.Start(t.Context(), c, accept)
	if err != nil {
		t.Fatal(err)
	}
	cleanUp(t, p)
	awaitExit(t, p)
	used, known := p.FinalCPU()
	text, err := os.ReadFile(group + "/cpuacct.usage")
	if err != nil {
		t.Fatal(err)
	}
	counted, err := strconv.ParseInt(strings.TrimSpace(string(text)), 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("clock %s, cgroup %s", used, time.Duration(counted))
	if before := used - time.Duration(counted); !known || before < -time.Millisecond || before > 50*time.Millisecond {
		t.Errorf("the clock said %s (known: %v), the cgroup %s", used, known, time.Duration(counted))
	}
}

func cpuacctGroup(t *testing.T) string {
	t.Helper()
	const root = "/sys/fs/cgroup/cpuacct"
	if _, err := os.Stat(root + "/cpuacct.usage"); err != nil {
		t.Skip("this host has no cgroups of version 1 that count CPU time")
	}
	dir := root + "/metald-test-" + strconv.Itoa(os.Getpid())
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Skipf("no cgroup can be made here: %v", err)
	}
	t.Cleanup(func() {
		eventually(t, "the cgroup is empty and goes", func() bool { return syscall.Rmdir(dir) == nil })
	})
	return dir
}

// Who adopted a VMM does not reap it: its parent may do so before its clock was read, and then nothing is said, rather
// than what another process with its pid used.
func TestWhatAnAdoptedProcessUsedIsKnownOfAZombieOnly(t *testing.T) {
	s := idleSupervisor(t)
	cmd := exec.Command(burnCommand(t).Path, "if=/dev/zero", "of=/dev/null", "bs=1M", "count=1000")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	pid := cmd.Process.Pid
	st, err := readStat(pid)
	if err != nil {
		t.Fatal(err)
	}
	exe, err := statExecutable(cmd.Path)
	if err != nil {
		t.Fatal(err)
	}
	p, err := s.Adopt(types.ProcessIdentity{PID: pid, StartTicks: st.StartTicks, BootID: s.bootID, ExeDevice: exe.Device, ExeInode: exe.Inode})
	if err != nil {
		t.Fatal(err)
	}
	p.child = false // as if it were another's: nobody reaps it before Wait
	eventually(t, "its end is seen", func() bool {
		if err := p.collect(); err != nil {
			t.Fatal(err)
		}
		return p.ended
	})
	used, known := p.FinalCPU()
	if settled := settledClock(t, pid); !known || used != settled || used < time.Millisecond {
		t.Errorf("it used %s (known: %v), and its zombie's clock says %s", used, known, settled)
	}
	if err := cmd.Wait(); err != nil {
		t.Fatal(err)
	}
	if used, known := finalCPU(p); known {
		t.Errorf("a process that is no more is said to have used %s", used)
	}
}
