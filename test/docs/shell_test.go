package docs

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"connectrpc.com/connect"
	"golang.org/x/sys/unix"

	pb "github.com/unkeyed/unkey/go/deploy/metald/gen/vmprovisioner/v1"
	"github.com/unkeyed/unkey/go/deploy/metald/gen/vmprovisioner/v1/vmprovisionerv1connect"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/guest"
	"github.com/unkeyed/unkey/go/deploy/metald/test/harness"
)

func TestMain(m *testing.M) {
	code := m.Run()
	if os.Getenv(insideAssets) == "" {
		harness.Remove()
	}
	os.Exit(code)
}

// The environment of the test that runs inside: where metald and the assets are outside.
const (
	insideAssets = "METALD_DOCS_ASSETS"
	insideBinary = "METALD_DOCS_BINARY"
)

// What documents say.
const (
	docsAssets = "/opt/vm-assets"
	docsURL    = "http://localhost:8080"
)

// TestShellBlocks runs TestInside in a network and a mount namespace of its own. There metald has port 8080 and
// /opt/vm-assets for itself, so that documents are run as they stand, whatever this machine has there.
func TestShellBlocks(t *testing.T) {
	assets, binary := harness.Assets(t), harness.Binary(t)
	cmd := exec.Command(os.Args[0], "-test.run=^TestInside$", "-test.v", "-test.timeout=10m")
	cmd.Env = append(os.Environ(), insideAssets+"="+assets, insideBinary+"="+binary)
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNS | unix.CLONE_NEWNET}
	if os.Geteuid() != 0 {
		cmd.SysProcAttr.Cloneflags |= unix.CLONE_NEWUSER
		cmd.SysProcAttr.UidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getuid(), Size: 1}}
		cmd.SysProcAttr.GidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getgid(), Size: 1}}
		cmd.Env = append(cmd.Env, "UNKEY_METALD_VMM_UID_BASE=0") // the namespace has no other users
	}
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Start(); err != nil {
		t.Skipf("this machine gives no namespace to run the documents in: %v", err)
	}
	if err := cmd.Wait(); err != nil {
		t.Errorf("%v:\n%s", err, out.Bytes())
	}
	if !strings.Contains(out.String(), "--- PASS: TestInside/README.md") {
		t.Errorf("no block of README.md was run:\n%s", out.Bytes())
	}
}

// TestInside runs in the namespaces of TestShellBlocks.
func TestInside(t *testing.T) {
	if os.Getenv(insideAssets) == "" {
		t.Skip("runs in the namespaces of TestShellBlocks only")
	}
	s := furnish(t, os.Getenv(insideAssets))
	texts := documents(t)
	for _, name := range slices.Sorted(maps.Keys(texts)) {
		script := runnable(mustBlocks(t, name, texts[name]))
		if script == "" {
			continue
		}
		t.Run(name, func(t *testing.T) {
			s.start(t)
			runScript(t, s.place(script))
		})
	}
	t.Run("contract", func(t *testing.T) { quickStart(t, s) })
}

// setting is what the namespaces have. Where the assets could not be put into their place, assets is where they are.
type setting struct{ assets string }

// place puts the setting's directory where a script names that of the documents.
func (s setting) place(script string) string { return strings.ReplaceAll(script, docsAssets, s.assets) }

// furnish makes the namespaces what documents take for granted: loopback, and the assets in their place. In a chroot
// no mount can be kept from the rest of the machine; there the assets stay where they are.
func furnish(t *testing.T, assets string) setting {
	t.Helper()
	if err := loopbackUp(); err != nil {
		t.Fatalf("loopback: %v", err)
	}
	must := func(what string, err error) {
		if err != nil {
			t.Fatalf("%s: %v", what, err)
		}
	}
	err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, "")
	if errors.Is(err, unix.EINVAL) {
		t.Logf("this is a chroot: %s stands for %s", assets, docsAssets)
		return setting{assets}
	}
	must("private mounts", err)
	aside := t.TempDir()
	must("bind the assets aside", unix.Mount(assets, aside, "", unix.MS_BIND, ""))
	must("empty /opt", unix.Mount("tmpfs", "/opt", "tmpfs", 0, "mode=755"))
	must("make "+docsAssets, os.Mkdir(docsAssets, 0o755))
	must("bind the assets", unix.Mount(aside, docsAssets, "", unix.MS_BIND, ""))
	must("let go of aside", unix.Unmount(aside, unix.MNT_DETACH))
	return setting{docsAssets}
}

func loopbackUp() error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	lo, err := unix.NewIfreq("lo")
	if err != nil {
		return err
	}
	lo.SetUint16(unix.IFF_UP | unix.IFF_RUNNING)
	return unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, lo)
}

// runnable joins the blocks that are to be run, each under its line in the document.
func runnable(list []block) string {
	var b strings.Builder
	for _, block := range list {
		if block.info == "sh run" {
			fmt.Fprintf(&b, "echo '== line %d'\n%s\n", block.line, block.text)
		}
	}
	return b.String()
}

// prelude makes a call that is answered by an error fail, and keeps curl from drawing its progress.
const prelude = "set -eu -o pipefail\ncurl() { command curl --silent --show-error --fail-with-body \"$@\"; }\n"

// patience is how long all blocks of one document may take.
const patience = 5 * time.Minute

func runScript(t *testing.T, script string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, "bash", "-c", prelude+script)
	cmd.Dir = t.TempDir()
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) } // and what the shell runs
	out, err := cmd.CombinedOutput()
	t.Logf("%s", out)
	if ctx.Err() != nil {
		t.Errorf("the blocks did not end within %s", patience)
	}
	if err != nil {
		t.Error(err)
	}
}

// start starts metald as the documents do: every setting has its default but the directories. When the test
// ends, its VMs go and then metald.
func (s setting) start(t *testing.T) vmprovisionerv1connect.VmServiceClient {
	t.Helper()
	var log bytes.Buffer
	cmd := exec.Command(os.Getenv(insideBinary))
	cmd.Env = append(os.Environ(), "UNKEY_METALD_STATE_DIR="+filepath.Join(t.TempDir(), "state"), "UNKEY_METALD_ASSETS_DIR="+s.assets)
	cmd.Stdout, cmd.Stderr = &log, &log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	client := vmprovisionerv1connect.NewVmServiceClient(http.DefaultClient, docsURL)
	t.Cleanup(func() {
		deleteAll(t, client)
		_ = cmd.Process.Signal(syscall.SIGTERM)
		if err := <-ended; err != nil || t.Failed() {
			t.Errorf("metald: %v\n%s", err, log.Bytes())
		}
	})
	harness.Eventually(t, 30*time.Second, "metald is ready", func() bool {
		resp, err := http.Get(docsURL + "/readyz")
		if err != nil {
			return false
		}
		resp.Body.Close()
		return resp.StatusCode == http.StatusOK
	})
	return client
}

func deleteAll(t *testing.T, client vmprovisionerv1connect.VmServiceClient) {
	list, err := client.ListVms(context.Background(), connect.NewRequest(&pb.ListVmsRequest{}))
	if err != nil {
		t.Errorf("list what the document left: %v", err)
		return
	}
	for _, vm := range list.Msg.GetVms() {
		_, err := client.DeleteVm(context.Background(), connect.NewRequest(&pb.DeleteVmRequest{VmId: vm.GetVmId(), Force: true}))
		if err != nil {
			t.Errorf("delete %s: %v", vm.GetVmId(), err)
		}
	}
}

// contractCall is the quick start that existing users have, byte for byte.
const contractCall = `curl -X POST http://localhost:8080/vmprovisioner.v1.VmService/CreateVm \
  -H "Content-Type: application/json" \
  -d '{"config":{"cpu":{"vcpu_count":1},"memory":{"size_bytes":134217728},"boot":{"kernel_path":"/opt/vm-assets/vmlinux","kernel_args":"console=ttyS0 reboot=k panic=1 pci=off"},"storage":[{"path":"/opt/vm-assets/rootfs.ext4","readonly":false}]}}'`

// quickStart pastes the contract's call into a shell and boots what it made.
func quickStart(t *testing.T, s setting) {
	client := s.start(t)
	cmd := exec.Command("bash", "-c", s.place(contractCall))
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	var answer struct{ VMID, State string }
	dec := json.NewDecoder(bytes.NewReader(out))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&answer); err != nil || answer.VMID == "" || answer.State != "VM_STATE_CREATED" {
		t.Fatalf("answered %s (%v)", out, err)
	}
	if _, err := client.BootVm(t.Context(), connect.NewRequest(&pb.BootVmRequest{VmId: answer.VMID})); err != nil {
		t.Fatal(err)
	}
	d := harness.Daemon{URL: docsURL, Client: client}
	d.AwaitConsole(t, answer.VMID, guest.Marker, 1, time.Minute)
}

func TestReadmeHasTheContractsCall(t *testing.T) {
	if !strings.Contains(documents(t)["README.md"], contractCall) {
		t.Error("README.md lacks the quick start that existing users have")
	}
}
