package bench

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"strconv"
	"syscall"
	"testing"
	"time"

	"connectrpc.com/connect"
	"golang.org/x/sys/unix"

	pb "github.com/unkeyed/unkey/go/deploy/metald/gen/vmprovisioner/v1"
	"github.com/unkeyed/unkey/go/deploy/metald/gen/vmprovisioner/v1/vmprovisionerv1connect"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/backend/stubvmm"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/guest"
	"github.com/unkeyed/unkey/go/deploy/metald/test/harness"
)

// startStub starts a metald whose VMM is the stand-in.
func startStub(b *testing.B, assets, runtime string) *harness.Daemon {
	b.Helper()
	return harness.Start(b, harness.Options{AssetsDir: assets, Env: []string{
		"UNKEY_METALD_BACKEND=qemu", "UNKEY_METALD_QEMU_ACCEL=tcg", "UNKEY_METALD_MAX_VMS=20000", "UNKEY_METALD_LOG_LEVEL=warn",
		"UNKEY_METALD_QEMU_BINARY=" + stubvmm.BuildQEMU(b), "UNKEY_METALD_RUNTIME_DIR=" + runtime,
	}})
}

// runtimeDir makes a directory for what VMMs need only while they run, where it belongs: on a tmpfs, if this host has
// one. Both sides have it.
func runtimeDir(b *testing.B) string {
	b.Helper()
	parent := "/dev/shm"
	var fs unix.Statfs_t
	if err := unix.Statfs(parent, &fs); err != nil || fs.Type != unix.TMPFS_MAGIC {
		parent = ""
	}
	dir, err := os.MkdirTemp(parent, "run")
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

// diskless asks for the smallest VM there is.
func diskless(assets, id, args string) *pb.CreateVmRequest {
	r := harness.Guest(assets, id, args)
	r.Config.Storage = nil
	return r
}

func createBoot(b *testing.B, d *harness.Daemon, request *pb.CreateVmRequest) {
	b.Helper()
	ctx := context.Background()
	if _, err := d.Client.CreateVm(ctx, connect.NewRequest(request)); err != nil {
		b.Fatal(err)
	}
	if _, err := d.Client.BootVm(ctx, connect.NewRequest(&pb.BootVmRequest{VmId: request.VmId})); err != nil {
		b.Fatal(err)
	}
}

func deleteVM(b *testing.B, d *harness.Daemon, id string) {
	b.Helper()
	if _, err := d.Client.DeleteVm(context.Background(), connect.NewRequest(&pb.DeleteVmRequest{VmId: id, Force: true})); err != nil {
		b.Fatal(err)
	}
}

func timed(f func()) time.Duration {
	begin := time.Now()
	f()
	return time.Since(begin)
}

// BenchmarkCreateBootStub is B1b: what metald adds to a VMM that is there at once.
func BenchmarkCreateBootStub(b *testing.B) { createBootStub(b, "") }

// BenchmarkCreateBootStub12ms is B1: what metald adds to a VMM that needs as long as Firecracker does.
func BenchmarkCreateBootStub12ms(b *testing.B) { createBootStub(b, "stub.start=12ms") }

func createBootStub(b *testing.B, args string) {
	assets := harness.StubAssets(b)
	runtime := runtimeDir(b)
	d := startStub(b, assets, runtime)
	raw := newRaw(b, d, runtime, diskless(assets, "", args), "")
	n := 0
	pairs(b, 150, func() time.Duration {
		n++
		request := diskless(assets, fmt.Sprintf("b-%d", n), args)
		took := timed(func() { createBoot(b, d, request) })
		deleteVM(b, d, request.VmId)
		return took
	}, func() time.Duration {
		var v *rawVM
		took := timed(func() { v = raw.start() })
		raw.end(v)
		return took
	})
}

// BenchmarkCreateBootGuest is B2: a real guest, until its user space speaks.
func BenchmarkCreateBootGuest(b *testing.B) {
	assets := harness.Assets(b)
	runtime := runtimeDir(b)
	d := harness.Start(b, harness.Options{AssetsDir: assets, Env: []string{
		"UNKEY_METALD_BACKEND=qemu", "UNKEY_METALD_QEMU_ACCEL=tcg", "UNKEY_METALD_LOG_LEVEL=warn", "UNKEY_METALD_RUNTIME_DIR=" + runtime,
	}})
	raw := newRaw(b, d, runtime, harness.Guest(assets, "", ""), assets+"/rootfs.ext4")
	raw.kernel = assets + "/vmlinux.bzImage" // what metald finds beside an ELF that QEMU cannot start
	n := 0
	pairs(b, 10, func() time.Duration {
		n++
		request := harness.Guest(assets, fmt.Sprintf("b-%d", n), "")
		took := timed(func() {
			createBoot(b, d, request)
			followTo(b, d, request.VmId, guest.Marker)
		})
		deleteVM(b, d, request.VmId)
		return took
	}, func() time.Duration {
		var v *rawVM
		took := timed(func() {
			v = raw.start()
			raw.awaitConsole(v, guest.Marker)
		})
		raw.end(v)
		return took
	})
}

// BenchmarkDeleteRunning is B13: a real guest that has begun to run, with its disk.
func BenchmarkDeleteRunning(b *testing.B) {
	assets := harness.Assets(b)
	runtime := runtimeDir(b)
	d := harness.Start(b, harness.Options{AssetsDir: assets, Env: []string{
		"UNKEY_METALD_BACKEND=qemu", "UNKEY_METALD_QEMU_ACCEL=tcg", "UNKEY_METALD_LOG_LEVEL=warn", "UNKEY_METALD_RUNTIME_DIR=" + runtime,
	}})
	raw := newRaw(b, d, runtime, harness.Guest(assets, "", ""), assets+"/rootfs.ext4")
	raw.kernel = assets + "/vmlinux.bzImage"
	deleteRunning(b, 20, d, raw, func(id string) *pb.CreateVmRequest { return harness.Guest(assets, id, "") }, "Linux version")
}

// BenchmarkDeleteRunningStub is the same with a VMM that holds nothing and dies at once: next to nothing on the
// floor's side, so that the call itself shows.
func BenchmarkDeleteRunningStub(b *testing.B) {
	assets := harness.StubAssets(b)
	runtime := runtimeDir(b)
	d := startStub(b, assets, runtime)
	raw := newRaw(b, d, runtime, diskless(assets, "", ""), "")
	deleteRunning(b, 150, d, raw, func(id string) *pb.CreateVmRequest { return diskless(assets, id, "") }, "")
}

// deleteRunning lets every guest say words before it is deleted.
func deleteRunning(b *testing.B, least int, d *harness.Daemon, raw *rawDriver, request func(id string) *pb.CreateVmRequest, words string) {
	n := 0
	pairs(b, least, func() time.Duration {
		n++
		id := fmt.Sprintf("b-%d", n)
		createBoot(b, d, request(id))
		followTo(b, d, id, words)
		return timed(func() { deleteVM(b, d, id) })
	}, func() time.Duration {
		v := raw.start()
		raw.awaitConsole(v, words)
		return timed(func() { raw.end(v) })
	})
}

func followTo(b *testing.B, d *harness.Daemon, id, words string) {
	b.Helper()
	if words == "" {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if seen, err := d.FollowConsole(ctx, id, words, 1); err != nil {
		b.Fatalf("%v\n%s", err, seen)
	}
}

// BenchmarkExitDetection is B14: from SIGKILL of a VMM until GetVmInfo says so.
func BenchmarkExitDetection(b *testing.B) {
	assets := harness.StubAssets(b)
	d := startStub(b, assets, runtimeDir(b))
	var took []time.Duration
	for n := range max(b.N, 100) {
		request := diskless(assets, fmt.Sprintf("b-%d", n), "")
		createBoot(b, d, request)
		pid, err := strconv.Atoi(get(b, d.Client, request.VmId).BackendInfo["pid"])
		if err != nil {
			b.Fatal(err)
		}
		took = append(took, timed(func() {
			if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
				b.Fatal(err)
			}
			for get(b, d.Client, request.VmId).State != pb.VmState_VM_STATE_SHUTDOWN {
			}
		}))
		deleteVM(b, d, request.VmId)
	}
	b.ReportMetric(0, "ns/op")
	b.ReportMetric(float64(median(took))/float64(time.Millisecond), "ms")
}

func get(b *testing.B, c vmprovisionerv1connect.VmServiceClient, id string) *pb.GetVmInfoResponse {
	b.Helper()
	info, err := c.GetVmInfo(context.Background(), connect.NewRequest(&pb.GetVmInfoRequest{VmId: id}))
	if err != nil {
		b.Fatal(err)
	}
	return info.Msg
}

// BenchmarkTailUnderChurn is B15: the 99th percentile of a small call while VMs are created, over that without.
func BenchmarkTailUnderChurn(b *testing.B) {
	assets := harness.StubAssets(b)
	d := startStub(b, assets, runtimeDir(b))
	createBoot(b, d, diskless(assets, "watched", ""))
	defer deleteVM(b, d, "watched")
	calls := max(b.N, 4000)
	idle := getMany(b, d, calls)

	ctx, stop := context.WithCancel(context.Background())
	churned := make(chan error, 1)
	go func() { churned <- churn(ctx, d, assets) }()
	busy := getMany(b, d, calls)
	stop()
	if err := <-churned; err != nil {
		b.Fatal(err)
	}
	report(b, percentile(busy, 0.99), percentile(idle, 0.99))
}

// getMany asks for one VM over and over, every millisecond, and returns how long each answer took.
func getMany(b *testing.B, d *harness.Daemon, n int) []time.Duration {
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	took := make([]time.Duration, 0, n)
	for range n {
		<-tick.C
		took = append(took, timed(func() { get(b, d.Client, "watched") }))
	}
	return took
}

// churn creates 50 VMs a second, each deleted when the next is there.
func churn(ctx context.Context, d *harness.Daemon, assets string) error {
	client := vmprovisionerv1connect.NewVmServiceClient(&http.Client{Transport: &http.Transport{}}, d.URL)
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for n := 0; ; n++ {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		id := fmt.Sprintf("churn-%d", n)
		if _, err := client.CreateVm(context.Background(), connect.NewRequest(diskless(assets, id, ""))); err != nil {
			return err
		}
		if _, err := client.DeleteVm(context.Background(), connect.NewRequest(&pb.DeleteVmRequest{VmId: id, Force: true})); err != nil {
			return err
		}
	}
}
