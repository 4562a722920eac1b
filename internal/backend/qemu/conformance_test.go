package qemu

import (
	"bytes"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/unkeyed/unkey/go/deploy/metald/internal/backend/conformance"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/backend/types"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/vm"
)

func TestConformance(t *testing.T) {
	everywhere(t, func(t *testing.T, r *rig) {
		killed := map[int]bool{}
		h := conformance.Harness{
			// It outlives the sentence: what is left of its VMs is removed after what the sentence began has ended.
			NewBackend: func(testing.TB) types.Backend { return r.another() },
			AssetsDir:  filepath.Dir(r.kernel), Kernel: r.kernel, RootDisk: r.root, KernelArgs: "quiet",
			BootTimeout: patience, Slow: r.real,
			KillVMM: func(t testing.TB, info vm.Info) {
				killed[info.PID] = true
				must(t, syscall.Kill(info.PID, syscall.SIGKILL))
				eventually(t, "the VMM is dead", func() bool { return !alive(info.PID) })
			},
			MuteVMM: func(t testing.TB, info vm.Info) func() {
				must(t, syscall.Kill(info.PID, syscall.SIGSTOP))
				eventually(t, "the VMM is stopped", func() bool { return pidState(t, info.PID) == "T" })
				return func() { must(t, syscall.Kill(info.PID, syscall.SIGCONT)) }
			},
			Leftovers: func(t testing.TB, _ string) []string { return children(t, killed) },
		}
		if !r.real {
			h.KernelArgs += " stub.boot=20ms" // a guest that ends at once was not seen to run
			h.Cannot = map[conformance.Ability]string{conformance.GuestDisks: "the stand-in's guest only says that it writes"}
		}
		conformance.Run(t, h)
	})
}

// alive tells whether a process runs; a zombie doesn't.
func alive(pid int) bool {
	state, _ := stat(pid)
	return state != "" && state != "Z"
}

// children names the processes that this one started and that are there, dead or alive. Of those that were killed the
// dead don't count: nobody may have been there to reap them, as this process plays the metald that restarted, too.
func children(t testing.TB, killed map[int]bool) (names []string) {
	entries, err := os.ReadDir("/proc")
	must(t, err)
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		if state, parent := stat(pid); parent == os.Getpid() && !(state == "Z" && killed[pid]) {
			names = append(names, "process "+e.Name()+" in the state "+state)
		}
	}
	return names
}

// stat returns the state and the parent of a process, "" if there is none.
func stat(pid int) (state string, parent int) {
	b, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return "", 0
	}
	fields := strings.Fields(string(b[bytes.LastIndexByte(b, ')')+1:]))
	parent, _ = strconv.Atoi(fields[1])
	return fields[0], parent
}
