package harness

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/unkeyed/unkey/go/deploy/metald/internal/backend/stubvmm"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/guest"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/host/kvm"
)

// VMM is a hypervisor, or the stand-in for one, that VMs of a test are to be on. Both play the guest of package guest.
type VMM struct {
	Name    string // of a subtest
	Backend string // its name, as CreateVm has it
	Real    bool   // and so as slow as guests without KVM are

	// prepare puts what it needs into the assets directory dir, and returns what metald is to be told.
	prepare func(tb testing.TB, dir string) vmmParts
}

// vmmParts is what is made for one VMM.
type vmmParts struct {
	kernel, rootDisk string // paths
	env              []string
	under            []string // a command that metald is to be started by; may be nil
}

// VMMs lists what the tests of the whole metald run on: each backend's stand-in, and QEMU.
func VMMs() []VMM {
	return []VMM{
		{Name: "firecracker-jailed", Backend: "firecracker", prepare: stubFirecracker(true)},
		{Name: "firecracker-bare", Backend: "firecracker", prepare: stubFirecracker(false)},
		{Name: "cloudhypervisor", Backend: "cloudhypervisor", prepare: stubCloudHypervisor},
		{Name: "qemu", Backend: "qemu", prepare: stubQEMU},
		{Name: "real-qemu", Backend: "qemu", Real: true, prepare: realQEMU},
	}
}

// RealVMMs lists the real hypervisors that boot guests. The tests of one that this machine lacks are skipped.
func RealVMMs() []VMM {
	return []VMM{
		{Name: "real-qemu", Backend: "qemu", Real: true, prepare: realQEMU},
		{Name: "real-firecracker", Backend: "firecracker", Real: true, prepare: realFirecracker},
		{Name: "real-cloudhypervisor", Backend: "cloudhypervisor", Real: true, prepare: realCloudHypervisor},
	}
}

// Ends is how a guest ends that is to end its VMM: a value of guest.ArgExit.
func (v VMM) Ends() string {
	if v.Backend == "firecracker" {
		return guest.ExitReboot
	}
	return guest.ExitPowerOff
}

// Site is an assets directory, and what a metald has to be told so that it finds VMMs.
type Site struct {
	Options
	Kernels, RootDisks map[string]string // by the name of a VMM
}

// NewSite prepares the use of several VMMs by one metald; the first is its own. It skips the test where this machine
// lacks something. The state directory is left to whoever starts the metald.
func NewSite(tb testing.TB, vmms ...VMM) Site {
	tb.Helper()
	s := Site{Kernels: map[string]string{}, RootDisks: map[string]string{}}
	s.AssetsDir = ShortDir(tb)
	accel := "tcg"
	if os.Getenv("METALD_TEST_KVM") == "1" {
		accel = "kvm"
	}
	s.Env = append(s.Env, "UNKEY_METALD_BACKEND="+vmms[0].Backend, "UNKEY_METALD_QEMU_ACCEL="+accel)
	for _, v := range vmms {
		p := v.prepare(tb, s.AssetsDir)
		s.Kernels[v.Name], s.RootDisks[v.Name] = p.kernel, p.rootDisk
		if assets := filepath.Dir(p.kernel); assets != s.AssetsDir { // real ones, which are too large to be copied
			s.AssetsDir = assets
		}
		s.Env = append(s.Env, p.env...)
		if p.under != nil {
			s.Under = p.under
		}
	}
	return s
}

// ShortDir makes a directory whose path leaves room for the name of a socket, and that the users of VMMs may enter. It is
// removed when the test ends.
func ShortDir(tb testing.TB) string {
	tb.Helper()
	dir, err := os.MkdirTemp("", "m")
	if err == nil {
		err = os.Chmod(dir, 0o755)
	}
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

// stubFirecracker is the stand-in, in a jail or not.
func stubFirecracker(jailed bool) func(testing.TB, string) vmmParts {
	return func(tb testing.TB, dir string) vmmParts {
		tb.Helper()
		if jailed && os.Geteuid() != 0 {
			tb.Skip("jails take root")
		}
		if v := kvm.Probe(); !v.Usable {
			tb.Skipf("metald wants KVM for Firecracker, and its stand-in is none without it: %s", v.Why)
		}
		p := vmmParts{
			// A kernel named vmlinux would be tried under KVM first.
			kernel: put(tb, dir, "firecracker-kernel", stubvmm.Kernel()), rootDisk: put(tb, dir, "rootfs.ext4", make([]byte, 64<<10)),
			env: []string{"UNKEY_METALD_FIRECRACKER_BINARY=" + stubvmm.BuildFirecracker(tb)},
		}
		if jailed {
			p.env = append(p.env, "UNKEY_METALD_JAILER_BINARY="+stubvmm.BuildJailer(tb))
			return p
		}
		p.env = append(p.env, "UNKEY_METALD_JAILER_ENABLED=false")
		p.under = OpenKVM(tb)
		return p
	}
}

// stubCloudHypervisor is the stand-in. VMs are kept apart as Cloud Hypervisor's are by the settings of metald's VMM.
func stubCloudHypervisor(tb testing.TB, dir string) vmmParts {
	tb.Helper()
	if v := kvm.Probe(); !v.Usable {
		tb.Skipf("metald wants KVM for Cloud Hypervisor, and its stand-in is none without it: %s", v.Why)
	}
	return vmmParts{
		kernel: put(tb, dir, "cloudhypervisor-kernel", stubvmm.KernelPVH()), rootDisk: put(tb, dir, "rootfs.ext4", make([]byte, 64<<10)),
		env:   []string{"UNKEY_METALD_CLOUD_HYPERVISOR_BINARY=" + stubvmm.BuildCloudHypervisor(tb)},
		under: OpenKVM(tb),
	}
}

func stubQEMU(tb testing.TB, dir string) vmmParts {
	tb.Helper()
	return vmmParts{
		kernel: put(tb, dir, "qemu-kernel", StubKernel()), rootDisk: put(tb, dir, "rootfs.ext4", make([]byte, 64<<10)),
		env: []string{"UNKEY_METALD_QEMU_BINARY=" + stubvmm.BuildQEMU(tb)},
	}
}

func realQEMU(tb testing.TB, _ string) vmmParts {
	tb.Helper()
	dir := Assets(tb)
	return vmmParts{kernel: filepath.Join(dir, "vmlinux"), rootDisk: filepath.Join(dir, "rootfs.ext4")}
}

// realFirecracker is Firecracker, jailed.
func realFirecracker(tb testing.TB, _ string) vmmParts {
	tb.Helper()
	return onKVM(tb, "vmlinux", "FIRECRACKER", "JAILER")
}

func realCloudHypervisor(tb testing.TB, _ string) vmmParts {
	tb.Helper()
	return onKVM(tb, "vmlinux", "CLOUD_HYPERVISOR")
}

// onKVM is for VMMs that METALD_TEST_… variables name, where guests run by KVM.
func onKVM(tb testing.TB, kernel string, programs ...string) vmmParts {
	tb.Helper()
	if os.Getenv("METALD_TEST_KVM") != "1" {
		tb.Skip("guests by KVM run in the KVM lab only, which sets METALD_TEST_KVM=1; `make lab` runs these tests there")
	}
	dir := Assets(tb)
	p := vmmParts{kernel: filepath.Join(dir, kernel), rootDisk: filepath.Join(dir, "rootfs.ext4")}
	for _, name := range programs {
		path := os.Getenv("METALD_TEST_" + name)
		if path == "" {
			tb.Skipf("METALD_TEST_%s names no program", name)
		}
		p.env = append(p.env, "UNKEY_METALD_"+name+"_BINARY="+path)
	}
	return p
}

func put(tb testing.TB, dir, name string, content []byte) string {
	tb.Helper()
	path := filepath.Join(dir, name)
	if err := os.WriteFile(path, content, 0o644); err != nil {
		tb.Fatal(err)
	}
	return path
}

// Setting is what metald is told by UNKEY_METALD_<name>; "" if nothing.
func (s Site) Setting(name string) string {
	for _, kv := range s.Env {
		if value, ok := strings.CutPrefix(kv, "UNKEY_METALD_"+name+"="); ok {
			return value
		}
	}
	return ""
}
