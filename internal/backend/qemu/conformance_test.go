package qemu

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/unkeyed/unkey/go/deploy/metald/internal/backend/conformance"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/backend/types"
	manager "github.com/unkeyed/unkey/go/deploy/metald/internal/vm"
)

func TestConformance(t *testing.T) {
	t.Run("stub", func(t *testing.T) {
		h := harness(onStub(t))
		h.BootTimeout = 20 * time.Second
		h.Cannot = map[conformance.Ability]string{
			conformance.GuestDisks: "the stand-in reads and writes no disk",
		}
		conformance.Run(t, h)
	})
	t.Run("qemu", func(t *testing.T) {
		h := harness(onQEMU(t))
		h.BootTimeout, h.Slow = patience, true
		conformance.Run(t, h)
	})
}

func harness(r *rig) conformance.Harness {
	return conformance.Harness{
		NewBackend: func(t testing.TB) types.Backend {
			return (&rig{t: t, dir: r.dir, config: r.config}).another()
		},
		AssetsDir: filepath.Dir(r.kernel), Kernel: r.kernel, RootDisk: r.root,
		KernelArgs: strings.TrimSpace("console=ttyS0 reboot=k panic=1 pci=off " + os.Getenv("METALD_TEST_KERNEL_ARGS")),
		UIDBase:    someUIDBase(),
		KillVMM: func(t testing.TB, info manager.Info) {
			must(t, syscall.Kill(info.PID, syscall.SIGKILL))
			eventually(t, fmt.Sprintf("process %d has ended", info.PID), func() bool { return !lives(info.PID) })
		},
		MuteVMM: func(t testing.TB, info manager.Info) func() {
			must(t, syscall.Kill(info.PID, syscall.SIGSTOP))
			eventually(t, "the VMM is stopped", func() bool { return pidState(t, info.PID) == "T" })
			return func() { must(t, syscall.Kill(info.PID, syscall.SIGCONT)) }
		},
		Leftovers: func(testing.TB, string) []string { return children() },
	}
}

// someUIDBase is where root takes users for VMMs from.
func someUIDBase() uint32 {
	if os.Geteuid() == 0 {
		return 700_000
	}
	return 0
}

// lives tells whether a process has not ended. One that nobody has waited for yet has.
func lives(pid int) bool {
	state, _ := stat(pid)
	return state != "" && state != "Z"
}

// children describes the processes that were started by this test and live.
func children() (found []string) {
	entries, _ := filepath.Glob("/proc/[0-9]*")
	for _, path := range entries {
		pid, err := strconv.Atoi(filepath.Base(path))
		if err != nil {
			continue
		}
		if state, parent := stat(pid); state != "" && state != "Z" && parent == os.Getpid() {
			found = append(found, fmt.Sprintf("process %d in state %s", pid, state))
		}
	}
	return found
}

// stat returns the state and the parent of a process, "" if there is none.
func stat(pid int) (state string, parent int) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return "", 0
	}
	fields := strings.Fields(string(b[bytes.LastIndexByte(b, ')')+1:]))
	parent, _ = strconv.Atoi(fields[1])
	return fields[0], parent
}
