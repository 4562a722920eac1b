package cloudhypervisor

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/unkeyed/unkey/go/deploy/metald/internal/backend/conformance"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/backend/types"
	manager "github.com/unkeyed/unkey/go/deploy/metald/internal/vm"
)

func TestConformance(t *testing.T) {
	everywhere(t, func(t *testing.T, r *rig) {
		h := harness(r)
		h.BootTimeout = patience
		if r.real {
			h.BootTimeout, h.Slow = 8*patience, true // the lab has one slow CPU
			h.Cannot[conformance.Flood] = "the lab's machine stands still as a whole under a guest that floods its serial port"
		} else {
			h.Cannot[conformance.GuestDisks] = "the stand-in reads and writes no disk"
			if err := h.NewBackend(t).Check(t.Context()); err != nil {
				h.Cannot[conformance.Usable] = err.Error()
			}
		}
		conformance.Run(t, h)
	})
}

func harness(r *rig) conformance.Harness {
	h := conformance.Harness{
		NewBackend: func(t testing.TB) types.Backend {
			return (&rig{t: t, dir: r.dir, config: r.config}).another()
		},
		AssetsDir: filepath.Dir(r.kernel), Kernel: r.kernel, RootDisk: r.root,
		KernelArgs: strings.TrimSpace("console=ttyS0 reboot=k panic=1 " + r.args),
		Cannot: map[conformance.Ability]string{
			conformance.LastWrites: "Cloud Hypervisor ends with its guest and takes its counters along",
		},
		KillVMM: func(t testing.TB, info manager.Info) {
			if err := syscall.Kill(info.PID, syscall.SIGKILL); err != syscall.ESRCH {
				must(t, err)
			}
			eventually(t, fmt.Sprintf("process %d has ended", info.PID), func() bool {
				state := pidState(info.PID)
				return state == "" || state == "Z"
			})
		},
		MuteVMM: func(t testing.TB, info manager.Info) func() {
			must(t, syscall.Kill(info.PID, syscall.SIGSTOP))
			eventually(t, "the VMM is stopped", func() bool { return pidState(info.PID) == "T" })
			return func() { must(t, syscall.Kill(info.PID, syscall.SIGCONT)) }
		},
		Leftovers: func(testing.TB, string) []string { return append(children(), r.leftovers()...) },
	}
	if os.Geteuid() == 0 {
		h.UIDBase = someUID
	}
	return h
}

// children describes the processes that were started by this test and live.
func children() (found []string) {
	entries, _ := os.ReadDir("/proc")
	for _, entry := range entries {
		pid, err := strconv.Atoi(entry.Name())
		if err != nil || parentOf(pid) != os.Getpid() {
			continue
		}
		if state := pidState(pid); state != "" && state != "Z" {
			command, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
			found = append(found, fmt.Sprintf("process %d: %q", pid, command))
		}
	}
	return found
}

func parentOf(pid int) int {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0
	}
	_, rest, _ := strings.Cut(string(b), ") ")
	fields := strings.Fields(rest)
	parent, _ := strconv.Atoi(fields[1])
	return parent
}
