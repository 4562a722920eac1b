package metering

import (
	"errors"
	"fmt"
	"io/fs"
	"math/big"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	billing "github.com/unkeyed/unkey/go/deploy/metald/gen/billing/v1"
)

// host reads what the kernel counts of a VMM by itself, and independent of metald.
type host struct {
	pid    int
	group  string        // the cgroup that the VMM's own is in: it keeps what is counted when that is gone
	before time.Duration // CPU time that the VMM had and its cgroup did not count, because it was not in it yet
	began  time.Duration // what the group had counted of others
	unit   time.Duration // of the group's counter
}

// reading is the CPU time of a VMM at a moment.
type reading struct {
	at  time.Time
	cpu time.Duration
}

// watch begins with a VMM whose guest does not run yet. Where the VMM does something meanwhile it is tried again.
func watch(t *testing.T, pid int) *host {
	t.Helper()
	h := &host{pid: pid}
	own := groupOf(t, pid)
	h.group = filepath.Dir(own)
	for range 1000 {
		clock := h.clock()
		all, unit := counted(t, h.group)
		mine, _ := counted(t, own)
		if h.clock() == clock {
			h.before, h.began, h.unit = max(clock-mine, 0), all-mine, unit
			return h
		}
	}
	t.Fatal("a VMM whose guest does not run is never idle")
	return nil
}

// clock is the CPU clock of the VMM; negative once it has ended.
func (h *host) clock() time.Duration {
	var ts unix.Timespec
	if unix.ClockGettime(int32(^h.pid<<3|2), &ts) != nil {
		return -1
	}
	return time.Duration(ts.Nano())
}

// wantCPU compares a bill with what the kernel counted up to the end of the VMM.
func (h *host) wantCPU(t *testing.T, u *billing.Usage) {
	t.Helper()
	all, _ := counted(t, h.group)
	counted := h.before + all - h.began
	billed := big128(u.GetCpuNs())
	off := new(big.Int).Sub(billed, big.NewInt(int64(counted)))
	if off.CmpAbs(big.NewInt(int64(2*(h.unit-1)))) > 0 {
		t.Errorf("billed %s ns of CPU, the host counted %d: %s apart", billed, counted, off)
	}
	if counted < burn {
		t.Errorf("the host counted %s, the guest burned %s: this test shows nothing", counted, burn)
	}
}

// everySecond reads the clock at each full second until the function returned is called or the VMM ends.
func (h *host) everySecond(t *testing.T) (stop func() []reading) {
	t.Helper()
	quit, done := make(chan struct{}), make(chan []reading, 1)
	go func() {
		var all []reading
		defer func() { done <- all }()
		for {
			next := time.NewTimer(time.Until(time.Now().Truncate(time.Second).Add(time.Second)))
			select {
			case <-next.C:
			case <-quit:
				next.Stop()
				return
			}
			cpu := h.clock()
			if cpu < 0 {
				return
			}
			all = append(all, reading{time.Now(), cpu})
		}
	}()
	return func() []reading { close(quit); return <-done }
}

// groupOf is the directory of the cgroup that counts the CPU time of a process. The test is skipped where that has none of
// its own.
func groupOf(t *testing.T, pid int) string {
	t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", pid))
	must(t, err)
	for line := range strings.Lines(string(text)) {
		parts := strings.SplitN(strings.TrimSpace(line), ":", 3)
		counts := slices.Contains(strings.Split(parts[1], ","), "cpuacct") || parts[0] == "0"
		if counts && strings.HasPrefix(parts[2], "/metald/") {
			for _, root := range []string{"cpuacct", "cpu,cpuacct", ""} {
				if dir := filepath.Join("/sys/fs/cgroup", root, parts[2]); dirExists(dir) {
					return dir
				}
			}
		}
	}
	t.Skipf("the VMM has no cgroup of its own that counts CPU time: %s", text)
	return ""
}

func dirExists(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.IsDir()
}

// counter reads a file that is a number, or the line usage_usec of one.
func counter(t *testing.T, path string) uint64 {
	t.Helper()
	text, err := os.ReadFile(path)
	must(t, err)
	for line := range strings.Lines(string(text)) {
		number := strings.TrimPrefix(strings.TrimSpace(line), "usage_usec ")
		if n, err := strconv.ParseUint(number, 10, 64); err == nil {
			return n
		}
	}
	t.Fatalf("%s: %q has no counter", path, text)
	return 0
}

// cpuParent is where the cgroup is, or will be, that all VMs jailed below a directory are in, each in one of its own; its
// counter has what those used that are gone.
func cpuParent(t *testing.T, jails string) string {
	t.Helper()
	var st unix.Stat_t
	must(t, unix.Stat(jails, &st))
	for _, root := range []string{"/sys/fs/cgroup/cpuacct", "/sys/fs/cgroup/cpu,cpuacct"} {
		if _, err := os.Stat(root); err == nil {
			return fmt.Sprintf("%s/metald/%x-%x", root, st.Dev, st.Ino)
		}
	}
	return fmt.Sprintf("/sys/fs/cgroup/metald/%x-%x", st.Dev, st.Ino)
}

// counted is the CPU time of a cgroup and all that ever were in it, and the unit in which it is counted; nothing where
// there is none yet.
func counted(t *testing.T, group string) (cpu, unit time.Duration) {
	t.Helper()
	if _, err := os.Stat(group); errors.Is(err, fs.ErrNotExist) {
		return 0, 0
	}
	file, unit := "cpuacct.usage", time.Nanosecond
	if _, err := os.Stat(filepath.Join(group, file)); err != nil {
		file, unit = "cpu.stat", time.Microsecond
	}
	return time.Duration(counter(t, filepath.Join(group, file))) * unit, unit
}
