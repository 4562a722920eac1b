package lab

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/unkeyed/unkey/go/deploy/metald/test/lab/wire"
)

// cpu is all that QEMU emulates, with virtualization. Of the extended state (XSAVE) a guest sees another size than its
// CPU has, where there is more than SSE: kernels of guests die of that. So there is none more, and guests of tests are
// started with noxsave.
const cpu = "max,+svm,+npt,-avx,-avx2,-f16c,-fma,-vaes,-vpclmulqdq,-mpx,-pku"

// Config says what a machine has.
type Config struct {
	Image Image
	// Disk is the machine's second disk, with the agent on it, made by Pack. The machine writes to it.
	Disk string
	// Dir is where the machine keeps its own files: what it changed of Image, and console.log.
	Dir string
	// CPUs and MemoryMiB are 1 and 4096 where they are 0. QEMU 7.2 with more CPUs, each a thread, hangs or ends within
	// minutes when guests run in the machine.
	CPUs, MemoryMiB int
	// Quick is for who boots often: it takes a third of the time. There is no systemd and nothing of what it does: no udev, no
	// journal, no services, no Machine.Test; the agent's parent is a shell, and everything is in the root cgroup, whose
	// controllers are all passed on. The root disk cannot be written to; /tmp and /run are memory; /lab, the second
	// disk, is as ever. The modules loop and vhost_vsock are not loaded. Kernel, KVM and cgroup v2 are those of the slow
	// boot.
	Quick bool
}

// bootPatience is how long a machine may take to boot, on a host that does much else.
const bootPatience = 3 * time.Minute

// Machine is an emulated host. Between Boot and PowerLoss or Close it runs, as a process that dies with this one.
type Machine struct {
	cfg     Config
	qemu    string
	overlay string
	log     string

	// Of the boot that is under way; nil where the machine is off.
	link   *link
	kill   context.CancelFunc
	exited chan struct{}
	end    error // set when exited is closed
}

// ErrOff is what a command gets whose machine went off.
var ErrOff = errors.New("the machine is off")

// New makes a machine that is off.
func New(ctx context.Context, cfg Config) (*Machine, error) {
	if cfg.CPUs == 0 {
		cfg.CPUs = 1
	}
	if cfg.MemoryMiB == 0 {
		cfg.MemoryMiB = 4096
	}
	qemu, err := find("qemu-system-x86_64")
	if err != nil {
		return nil, err
	}
	img, err := find("qemu-img")
	if err != nil {
		return nil, err
	}
	disk, err := filepath.Abs(cfg.Image.Disk)
	if err != nil {
		return nil, err
	}
	if cfg.Image.Kernel, err = plainKernel(cfg.Image, cfg.Dir); err != nil {
		return nil, err
	}
	if cfg.Quick {
		if cfg.Image.Initrd, err = quickInitrd(cfg.Image, cfg.Dir); err != nil {
			return nil, err
		}
	}
	m := &Machine{cfg: cfg, qemu: qemu, overlay: filepath.Join(cfg.Dir, "root.qcow2"), log: filepath.Join(cfg.Dir, "console.log")}
	return m, run(ctx, img, "create", "-q", "-f", "qcow2", "-F", "raw", "-b", disk, m.overlay)
}

// Boot starts the machine and waits until its agent speaks. Its disks are as the last end left them.
func (m *Machine) Boot(ctx context.Context) error {
	if m.link != nil {
		return errors.New("the machine runs already")
	}
	ours, theirs, err := socketPair()
	if err != nil {
		return err
	}
	defer theirs.Close()
	console, err := os.OpenFile(m.log, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o644)
	if err != nil {
		ours.Close()
		return err
	}
	defer console.Close()
	life, kill := context.WithCancel(context.Background())
	cmd := exec.CommandContext(life, m.qemu, m.arguments(3)...)
	cmd.Stdout, cmd.Stderr = console, console
	cmd.ExtraFiles = []*os.File{theirs}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	started := make(chan error, 1)
	m.exited = make(chan struct{})
	go m.execute(cmd, started)
	if err := <-started; err != nil {
		kill()
		ours.Close()
		return err
	}
	m.kill, m.link = kill, newLink(ours)
	ctx, cancel := context.WithTimeout(ctx, bootPatience)
	defer cancel()
	if err := m.link.awaitBoot(ctx); err != nil {
		m.PowerLoss()
		return fmt.Errorf("the lab machine did not come up: %w (QEMU: %v); its last words:\n%s", err, m.end, m.lastWords())
	}
	return nil
}

// execute runs QEMU from a thread that lives as long: the signal of its parent's death is that of the thread's.
func (m *Machine) execute(cmd *exec.Cmd, started chan<- error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	defer close(m.exited)
	if m.end = cmd.Start(); m.end != nil {
		started <- m.end
		return
	}
	started <- nil
	m.end = cmd.Wait()
}

// BootID is the id of the boot, "" where the machine is off.
func (m *Machine) BootID() string {
	if m.link == nil {
		return ""
	}
	return m.link.boot
}

// PowerLoss takes the machine's power: what it had confirmed to be on its disks is there at the next Boot, anything
// else may not be. Commands that run end with ErrOff. It does nothing to a machine that is off.
func (m *Machine) PowerLoss() {
	if m.link == nil {
		return
	}
	m.kill() // SIGKILL
	<-m.exited
	m.link.close()
	m.link = nil
}

// Close turns the machine off and removes its root disk; the console's log stays.
func (m *Machine) Close() error {
	m.PowerLoss()
	return os.Remove(m.overlay)
}

// Command is a command for Run. Env is added to the agent's environment; Output, if not nil, gets stdout and stderr.
type Command struct {
	Argv   []string
	Env    []string
	Dir    string
	Output io.Writer
}

// Run runs a command in the machine, as root, to its end, and returns its exit code; that is 128 and the number of the
// signal for a command that a signal ended. When ctx ends, the command is killed. Commands may run side by side.
func (m *Machine) Run(ctx context.Context, c Command) (code int, err error) {
	if m.link == nil {
		return 0, ErrOff
	}
	return m.link.run(ctx, c)
}

func (m *Machine) arguments(agent int) []string {
	disk := func(name, path, format string) []string {
		path = strings.ReplaceAll(path, ",", ",,")
		return []string{
			"-drive", fmt.Sprintf("if=none,id=%s,file=%s,format=%s,cache=none", name, path, format),
			"-device", "virtio-blk-pci,drive=" + name,
		}
	}
	args := []string{
		"-name", "guest=metald-lab", "-M", "q35", "-accel", "tcg", "-cpu", cpu,
		"-smp", fmt.Sprint(m.cfg.CPUs), "-m", fmt.Sprint(m.cfg.MemoryMiB),
		"-nodefaults", "-no-user-config", "-display", "none", "-no-reboot", "-serial", "stdio",
		"-kernel", m.cfg.Image.Kernel, "-initrd", m.cfg.Image.Initrd, "-append", kernelArguments(m.cfg.Quick),
		"-device", "virtio-rng-pci", "-device", "virtio-serial-pci",
		"-chardev", fmt.Sprintf("socket,id=agent,fd=%d", agent), "-device", "virtserialport,chardev=agent,name=" + wire.PortName,
	}
	args = append(args, disk("root", m.overlay, "qcow2")...)
	return append(args, disk("lab", m.cfg.Disk, "raw")...)
}

// lastWords are the end of the console's log.
func (m *Machine) lastWords() string {
	text, err := os.ReadFile(m.log)
	if err != nil {
		return err.Error()
	}
	lines := strings.Split(strings.TrimSpace(string(text)), "\n")
	return strings.Join(lines[max(0, len(lines)-15):], "\n")
}

// socketPair returns a connection, and the file of its other end.
func socketPair() (net.Conn, *os.File, error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, os.NewSyscallError("socketpair", err)
	}
	ours := os.NewFile(uintptr(fds[0]), "agent")
	defer ours.Close()
	theirs := os.NewFile(uintptr(fds[1]), "agent")
	conn, err := net.FileConn(ours)
	if err != nil {
		theirs.Close()
		return nil, nil, err
	}
	return conn, theirs, nil
}
