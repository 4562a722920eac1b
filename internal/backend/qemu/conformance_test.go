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
			conformance.Flood:      "the stand-in has no flood",
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
		KernelArgs: "console=ttyS0 reboot=k panic=1 pci=off",
		UIDBase:    someUIDBase(),
		KillVMM: func(t testing.TB, info manager.Info) {
			must(t, syscall.Kill(info.PID, syscall.SIGKILL))
			eventually(t, fmt.Sprintf("process %d has ended", info.PID), func() bool { return !lives(info.PID) })
		},
		MuteVMM: func(t testing.TB, info manager.Info) func() {
			must(t, syscall.Kill(info.PID, syscall.SIGSTOP))
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
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	return err == nil && !bytes.Contains(stat, []byte(") Z "))
}

// children describes the processes that were started by this test and live.
func children() (found []string) {
	self := strconv.Itoa(os.Getpid())
	stats, _ := filepath.Glob("/proc/[0-9]*/stat")
	for _, path := range stats {
		stat, err := os.ReadFile(path)
		if err != nil {
			continue // it has ended
		}
		fields := strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+1:]))
		if len(fields) > 1 && fields[0] != "Z" && fields[1] == self {
			found = append(found, "the process "+string(stat[:bytes.LastIndexByte(stat, ')')+1]))
		}
	}
	return found
}
