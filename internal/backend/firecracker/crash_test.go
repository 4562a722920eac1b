package firecracker

import (
	"bufio"
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/unkeyed/unkey/go/deploy/metald/internal/backend/backendtest"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/backend/cage"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/backend/types"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/console"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/host/disk"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/host/jail"
	manager "github.com/unkeyed/unkey/go/deploy/metald/internal/vm"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/vm/store"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/vmmprocess"
)

// The test binary plays metalds that get killed: this variable says where their state is, and what follows which
// firecracker and jailer they have.
const (
	metaldEnv      = "FIRECRACKER_TEST_METALD"
	firecrackerEnv = "FIRECRACKER_TEST_BINARY"
	jailerEnv      = "FIRECRACKER_TEST_JAILER"
)

// written is how much the guest of the VM writes that lives through all crashes.
const written = 3<<20 + 5

const writer types.VMID = "writer"

// playMetald makes and deletes VMs until it is killed.
func playMetald(dir string) error {
	ctx := context.Background()
	log := slog.New(slog.DiscardHandler)
	supervisor, err := vmmprocess.New(log)
	if err != nil {
		return err
	}
	drainer, err := console.NewDrainer()
	if err != nil {
		return err
	}
	go supervisor.Run(ctx)
	go drainer.Run(ctx)
	b, err := New(Config{
		Binary: os.Getenv(firecrackerEnv), Supervisor: supervisor, Drainer: drainer, Log: log,
		JailerBinary: os.Getenv(jailerEnv),
		Jail:         &cage.Config{Dir: filepath.Join(dir, "jail"), NetNamespace: true, PIDNamespace: true, MaxOpenFiles: 1024},
	})
	if err != nil {
		return err
	}
	records, err := store.OpenBolt(filepath.Join(dir, "vms.db"))
	if err != nil {
		return err
	}
	m := manager.New(manager.Config{
		Backend: b, Store: records, StateDir: dir, Roots: rootsOf(dir), MaxVMs: 50, UIDBase: crashUID, ConsoleBytes: 1 << 20, Log: log,
	})
	if err := m.Restore(ctx); err != nil {
		return err
	}
	go m.Run(ctx)
	os.Stdout.WriteString("up\n")
	spec := crashSpec(dir, "root.ext4", "metald.write="+strconv.Itoa(written))
	if _, err := m.Create(ctx, writer, spec); err != nil {
		return err
	}
	_, _ = m.Boot(ctx, writer) // it may run already
	for w := range 4 {
		go func() {
			id := types.VMID(fmt.Sprintf("vm%d", w))
			for {
				// What does not work now is for the next metald to put right.
				_, _ = m.Create(ctx, id, crashSpec(dir, fmt.Sprintf("volumes/%d", w)))
				_, _ = m.Boot(ctx, id)
				_ = m.Delete(ctx, id, true)
			}
		}()
	}
	select {}
}

// crashUID is the first of the users of these VMs, who are nobody else's.
const crashUID = someUID + 10_000

func rootsOf(dir string) disk.Roots {
	return disk.Roots{Assets: filepath.Join(dir, "assets"), Volumes: filepath.Join(dir, "volumes")}
}

func crashSpec(dir, root string, args ...string) types.Spec {
	path := filepath.Join(dir, root)
	if !strings.HasPrefix(root, "volumes/") {
		path = filepath.Join(dir, "assets", root)
	}
	return types.Spec{
		CPU: types.CPU{Count: 1}, Memory: types.Memory{SizeBytes: 128 << 20},
		Boot:    types.Boot{KernelPath: filepath.Join(dir, "assets", "vmlinux"), KernelArgs: strings.Join(append([]string{"console=ttyS0"}, args...), " ")},
		Disks:   []types.Disk{{ID: "root", Path: path}},
		Console: types.Console{Enabled: true},
	}
}

// TestMetaldIsKilledAtAnyMoment kills 50 metalds, 10 with -short, while they make and delete VMs on volumes. After each
// the next one finds what there is and leaves nothing else; and what the guest wrote that lives on is billed once.
func TestMetaldIsKilledAtAnyMoment(t *testing.T) {
	r := onStub(t, true)
	for _, name := range []string{"assets", "volumes"} {
		must(t, os.Mkdir(filepath.Join(r.dir, name), 0o755))
	}
	must(t, os.Rename(r.kernel, filepath.Join(r.dir, "assets", "vmlinux")))
	must(t, os.Rename(r.root, filepath.Join(r.dir, "assets", "root.ext4")))
	var volumes []string
	for w := range 4 {
		r.root = filepath.Join(r.dir, "assets", "root.ext4")
		volumes = append(volumes, r.volume(filepath.Join("volumes", strconv.Itoa(w))))
	}
	for _, path := range volumes { // as if they had been made at one moment
		must(t, os.Chtimes(path, time.Time{}, time.Unix(1e9, 0)))
	}
	before := ownerOf(t, volumes[0])
	rounds := 50
	if testing.Short() {
		rounds = 10
	}
	var delays []time.Duration
	for range rounds {
		delays = append(delays, time.Duration(rand.IntN(150_000))*time.Microsecond)
	}
	delays[0] = time.Second // so that the one that writes is there
	for i, delay := range delays {
		r.killMetaldAfter(delay)
		last := i == len(delays)-1
		if !r.checkRestored(volumes, before, last) {
			t.Fatalf("after metald %d, which was killed after %s", i, delay)
		}
	}
}

func (r *rig) killMetaldAfter(delay time.Duration) {
	r.t.Helper()
	metald := exec.Command(os.Args[0])
	metald.Env = append(os.Environ(), metaldEnv+"="+r.dir, firecrackerEnv+"="+r.config.Binary, jailerEnv+"="+r.config.JailerBinary)
	metald.Stderr = os.Stderr
	out, err := metald.StdoutPipe()
	must(r.t, err)
	must(r.t, metald.Start())
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		r.t.Errorf("metald said %q, %v", line, err)
	}
	<-time.After(delay)
	must(r.t, metald.Process.Kill())
	_ = metald.Wait()
}

// checkRestored has another metald take over, and compares what it knows with what there is.
func (r *rig) checkRestored(volumes []string, before owner, last bool) bool {
	r.t.Helper()
	records, err := store.OpenBolt(filepath.Join(r.dir, "vms.db"))
	must(r.t, err)
	defer records.Close()
	b := r.another()
	m := manager.New(manager.Config{
		Backend: b, Store: records, StateDir: r.dir, Roots: rootsOf(r.dir), MaxVMs: 50, UIDBase: crashUID, ConsoleBytes: 1 << 20,
		Log: slog.New(slog.NewTextHandler(backendtest.Log{TB: r.t}, &slog.HandlerOptions{Level: slog.LevelError})),
	})
	must(r.t, m.Restore(r.t.Context()))
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- m.Run(ctx) }()
	defer func() { cancel(); must(r.t, <-done) }()

	eventually(r.t, "the writer's bytes are billed", func() bool {
		u, err := m.Usage(r.t.Context(), writer)
		must(r.t, err)
		got := u.Disks["root"].WriteBytes
		if got > written {
			r.t.Fatalf("%d bytes are billed, and %d were written", got, written)
		}
		return got == written
	})
	if last {
		for _, info := range m.List(manager.ListQuery{Limit: 100}).VMs {
			must(r.t, m.Delete(r.t.Context(), info.ID, true))
		}
	}
	r.wantOnlyThese(m.List(manager.ListQuery{Limit: 100}).VMs)
	for i, path := range volumes {
		_, err := m.Get(types.VMID(fmt.Sprintf("vm%d", i)))
		if now := ownerOf(r.t, path); err != nil && now != before {
			r.t.Errorf("volume %d, which no VM has, is %+v and was %+v", i, now, before)
		}
	}
	return !r.t.Failed()
}

// wantOnlyThese checks that there are jails, cgroups, directories and processes of these VMs and of nobody else.
func (r *rig) wantOnlyThese(vms []manager.Info) {
	r.t.Helper()
	var pids []int
	var ids, want []string
	for _, info := range vms {
		ids = append(ids, string(info.ID))
		if info.PID != 0 {
			pids = append(pids, info.PID)
			want = append(want, fmt.Sprintf("%s-%d", info.ID, info.Incarnation))
		}
	}
	slices.Sort(pids)
	slices.Sort(ids)
	slices.Sort(want)
	var jails []string
	found, err := jail.List(r.config.Jail.Dir)
	must(r.t, err)
	for _, j := range found {
		jails = append(jails, j.ID)
	}
	slices.Sort(jails)
	must(r.t, r.backend.openCage())
	groups, err := r.backend.cage.Parent().List()
	must(r.t, err)
	for what, got := range map[string][]string{
		"jails": jails, "cgroups": groups, "run directories": names(r.t, filepath.Join(r.dir, "run")),
		"directories of jails": names(r.t, filepath.Join(r.config.Jail.Dir, "firecracker")),
	} {
		if len(got) != len(want) || what != "run directories" && !slices.Equal(got, want) {
			r.t.Errorf("there are the %s %v, want %v", what, got, want)
		}
	}
	if got := names(r.t, filepath.Join(r.dir, "vms")); !slices.Equal(got, ids) {
		r.t.Errorf("there are the directories of VMs %v, want %v", got, ids)
	}
	if got := r.processes(); !slices.Equal(got, pids) {
		r.t.Errorf("there are the processes %v, want %v", got, pids)
	}
}

func names(t testing.TB, dir string) (all []string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	must(t, err)
	for _, e := range entries {
		all = append(all, e.Name())
	}
	return all
}

// processes are those of the VMs' users, and those whose arguments name the rig's directory, sorted.
func (r *rig) processes() (pids []int) {
	entries, err := os.ReadDir("/proc")
	must(r.t, err)
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil || !lives(pid) {
			continue
		}
		user, _, _ := strings.Cut(statusOf(pid, "Uid"), " ")
		uid, _ := strconv.Atoi(user)
		args, _ := os.ReadFile(filepath.Join("/proc", e.Name(), "cmdline"))
		if uid >= crashUID && uid < crashUID+100 || strings.Contains(string(args), r.dir) {
			pids = append(pids, pid)
		}
	}
	slices.Sort(pids)
	return pids
}
