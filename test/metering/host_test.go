package metering

import (
	"errors"
	"fmt"
	"io/fs"
	"math/big"
	"os"
	"path/filepath"
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
	before time.Duration // CPU time that the VMM had when the group took over
	group  string        // directory whose counter goes on after the VMM's end
	file   string
	unit   time.Duration // of the group's counter
	began  uint64        // of the counter, when it took over
}

// reading is the CPU time of a VMM at a moment.
type reading struct {
	at  time.Time
	cpu time.Duration
}

// watch begins with a VMM whose guest does not run yet.
func watch(t *testing.T, pid int) *host {
	t.Helper()
	h := &host{pid: pid}
	if group := v2Group(t, pid); group != "" && group != "/" {
		h.inherit(t, filepath.Join("/sys/fs/cgroup", group))
		return h
	}
	h.adopt(t)
	return h
}

// inherit reads the parent of the VMM's own group: it keeps what its children used when they are gone.
func (h *host) inherit(t *testing.T, group string) {
	t.Helper()
	h.group, h.file, h.unit = filepath.Dir(group), "cpu.stat", time.Microsecond
	all, own := counter(t, filepath.Join(h.group, h.file)), counter(t, filepath.Join(group, h.file))
	h.began = all - own
}

// adopt moves the VMM into a group of its own, which counts from then on. A guest that does not run uses nothing
// meanwhile; if its VMM did, it is tried again.
func (h *host) adopt(t *testing.T) {
	t.Helper()
	h.file, h.unit = "cpuacct.usage", time.Nanosecond
	h.group = filepath.Join("/sys/fs/cgroup/cpuacct", fmt.Sprintf("metald-truth-%d", h.pid))
	if err := os.Mkdir(h.group, 0o755); err != nil {
		t.Skipf("no cgroup that counts CPU time beside metald's: %v", err)
	}
	t.Cleanup(func() { _ = unix.Rmdir(h.group) })
	must(t, os.WriteFile(filepath.Join(h.group, "cgroup.procs"), []byte(strconv.Itoa(h.pid)), 0o644))
	for range 1000 {
		used, first := h.clock(), counter(t, filepath.Join(h.group, h.file))
		if again := h.clock(); again == used {
			h.before, h.began = used, first
			return
		}
	}
	t.Fatal("a VMM whose guest does not run is never idle")
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
	counted := h.before + time.Duration(counter(t, filepath.Join(h.group, h.file))-h.began)*h.unit
	billed := big128(u.GetCpuNs())
	off := new(big.Int).Sub(billed, big.NewInt(int64(counted)))
	if off.CmpAbs(big.NewInt(int64(h.unit-1))) > 0 {
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

// v2Group is the cgroup of a process in the unified hierarchy, "" where that has no controllers.
func v2Group(t *testing.T, pid int) string {
	t.Helper()
	if _, err := os.Stat("/sys/fs/cgroup/cgroup.controllers"); errors.Is(err, fs.ErrNotExist) {
		return ""
	}
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", pid))
	must(t, err)
	for line := range strings.Lines(string(text)) {
		if group, ok := strings.CutPrefix(strings.TrimSpace(line), "0::"); ok {
			return group
		}
	}
	return ""
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
