package cloudhypervisor

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"github.com/unkeyed/unkey/go/deploy/metald/internal/backend/cage"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/backend/tally"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/backend/types"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/host/cgroup"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/host/jail"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/host/kvm"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/host/tap"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/vmmprocess"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/vmmprocess/jailer"
)

// readyTimeout is how long a new Cloud Hypervisor may take until it has made its socket: some milliseconds, and with many
// at once some hundred.
const readyTimeout = 20 * time.Second

// overhead is what a VM's cgroup may have beyond its guest's: Cloud Hypervisor's own memory is some 10 MiB, beside it are
// the queues of its devices, the 1 MiB of the console, the kernel's tables for the guest's memory, and the pages of disks
// that are being written. It has a thread for each queue of each device.
var overhead = cage.Overhead{VMM: vmmName, Bytes: 96 << 20, Part: 64, Threads: 96}

// Create starts a Cloud Hypervisor that holds the guest, configured and not started.
func (b *Backend) Create(ctx context.Context, req types.CreateRequest) (types.Machine, error) {
	l := &launch{backend: b, req: req, home: home{cage: b.cage, runDir: req.RunDir, private: private{UID: req.UID, GID: req.GID}}}
	if err := l.prove(ctx); err != nil {
		return nil, err
	}
	defer l.close()
	err := l.prepare(ctx)
	var m *machine
	if err == nil {
		m, err = l.start(ctx)
	}
	if err != nil {
		return nil, errors.Join(err, l.undo(ctx))
	}
	return m, nil
}

// launch is a Cloud Hypervisor in the making.
type launch struct {
	backend *Backend
	req     types.CreateRequest
	vmm     executable
	plan    plan
	taps    []*os.File // one per network, until Cloud Hypervisor has them

	home     home
	alive    bool       // its process could not be ended
	runDir   bool       // it was made: what was there before is somebody else's, and stays
	rootMade bool       // likewise
	root     *jail.Jail // nil before it was opened
	files    cage.Files
	group    *cgroup.Group // nil without limits
}

// prove finds out all that can be without leaving anything.
func (l *launch) prove(ctx context.Context) (err error) {
	if l.vmm, err = l.backend.vmm(ctx); err != nil {
		return err
	}
	if err := jailer.CheckID(jailer.IDOf(string(l.req.ID), l.req.Incarnation)); err != nil {
		return types.Errorf(types.KindInvalid, "%w", err)
	}
	l.home.private.Version, l.home.private.Root = l.vmm.Version.String(), l.req.RootDir
	if l.backend.cfg.Jail != nil {
		if err := l.backend.cage.Open(); err != nil {
			return err
		}
		l.home.private.Group = &group{Parent: l.backend.cage.Name(), Name: jailer.IDOf(string(l.req.ID), l.req.Incarnation)}
	}
	if l.req.Kernel, err = bootable(l.backend.kernels, l.req.Kernel); err != nil {
		return err
	}
	var around surroundings
	if landlocks() {
		around.landlock, around.rules = true, lockdownRules()
	}
	// By names from its working directory: the host's paths are nothing to a VMM.
	inside := func(name string) string { return name }
	if l.plan, err = translate(cage.Inside(l.req, inside), around); err != nil {
		return err
	}
	return checkHost(os.DirFS("/"), l.plan.config)
}

// prepare makes everything that Cloud Hypervisor finds when it starts.
func (l *launch) prepare(ctx context.Context) error {
	if err := l.openTaps(); err != nil {
		return err
	}
	if err := vmmprocess.MakeRunDir(l.req.RunDir, 0, 0); err != nil {
		return err
	}
	l.runDir = true
	for _, name := range []string{stderrName, eventsName, consoleName} {
		if name == consoleName && !l.req.Spec.Console.Enabled {
			continue
		}
		if err := vmmprocess.MakeStderr(filepath.Join(l.req.RunDir, name)); err != nil {
			return err
		}
	}
	if err := l.makeRoot(ctx); err != nil {
		return err
	}
	if l.home.private.Group == nil {
		return nil
	}
	limits, err := l.backend.cage.Limits(overhead, l.req.Spec, l.req.Disks)
	if err != nil {
		return err
	}
	l.group, err = l.backend.cage.Parent().Make(l.home.private.Group.Name, limits)
	return err
}

func (l *launch) makeRoot(ctx context.Context) (err error) {
	if err := vmmprocess.MakeRunDir(l.home.root(), l.req.UID, l.req.GID); err != nil {
		return err
	}
	l.rootMade = true
	if l.root, err = jail.Open(l.home.root()); err != nil {
		return err
	}
	if err := l.root.Dir(socketsDir); err != nil {
		return err
	}
	err = l.files.Place(ctx, l.root, l.req)
	l.home.private.Lent, l.home.private.Mounted = l.files.Lent, l.files.Mounted
	return err
}

// openTaps opens the taps, which are in the host's network namespace and may be metald's only: Cloud Hypervisor gets
// them as open files.
func (l *launch) openTaps() error {
	for i, n := range l.req.Spec.Networks {
		field := fmt.Sprintf("config.network[%d].tap_device", i)
		file, err := tap.Open(n.Tap)
		switch {
		case errors.Is(err, tap.ErrName):
			return types.FieldErrorf(types.KindInvalid, field, "%w", err)
		case err != nil:
			return types.FieldErrorf(types.KindPrecondition, field, "%w", err)
		}
		l.taps = append(l.taps, file)
	}
	l.home.private.Taps = tally.Begin(l.req.Spec.Networks)
	return nil
}

// start runs Cloud Hypervisor and talks to it until it is known to be as it should. After an error it is dead.
func (l *launch) start(ctx context.Context) (_ *machine, err error) {
	m := newMachine(l.handle(), l.req.Spec, l.home, l.req.Console, l.req.Ended, l.req.Stopped)
	m.log = l.backend.cfg.Log.With("vm", l.req.ID)
	if err := m.listen(l.backend.cfg.Drainer); err != nil {
		m.letGo()
		return nil, err
	}
	command, err := l.command()
	defer func() { // which nil allows, with an error
		command.Root.Close()
		command.BornIn.Close()
		for _, file := range command.Files {
			file.Close()
		}
	}()
	if err == nil {
		m.process, err = l.backend.cfg.Supervisor.Start(ctx, command, func(id types.ProcessIdentity) error {
			m.handle.Process = id
			return l.commit(m.handle)
		})
	}
	if err != nil {
		m.letGo()
		return nil, startError(ctx, err)
	}
	if err := l.ready(ctx, m); err != nil {
		err = m.abandon(ctx, err)
		l.alive = !m.died()
		return nil, err
	}
	m.root, l.root = l.root, nil
	m.compare()
	m.begin()
	return m, nil
}

// commit has the handle made durable. Only then is anything of the host lent to the VM's user: what is lent can be
// given back, whenever metald dies.
func (l *launch) commit(h types.Handle) error {
	if err := l.req.Commit(h); err != nil {
		return err
	}
	return l.files.Give()
}

func (l *launch) handle() types.Handle {
	return types.Handle{
		Version: handleVersion, Backend: Name, VM: l.req.ID, Incarnation: l.req.Incarnation,
		RunDir: l.req.RunDir, VMM: vmmName, VMMVersion: l.vmm.Version.String(), Private: l.home.private.encode(),
	}
}

// commandArgs say nothing of the VM, which comes over the API.
func commandArgs() []string {
	events := fmt.Sprintf("fd=%d", vmmprocess.FirstFileAtRoot)
	return []string{"--api-socket", "path=" + apiSocket, "--event-monitor", events, "--seccomp", "true"}
}

func (l *launch) command() (c vmmprocess.Command, err error) {
	c = vmmprocess.Command{
		Path: l.vmm.Path, Args: commandArgs(), UID: l.req.UID, GID: l.req.GID,
		Stderr: filepath.Join(l.req.RunDir, stderrName),
	}
	if l.req.Spec.Console.Enabled {
		c.Stdout = filepath.Join(l.req.RunDir, consoleName)
	}
	if gid, needed := kvm.Group(); needed && c.UID != 0 {
		c.GID = gid // to open /dev/kvm
	}
	if j := l.backend.cfg.Jail; j != nil {
		c.NewPIDNamespace, c.NewNetNamespace = j.PIDNamespace, j.NetNamespace
		c.MaxOpenFiles = j.MaxOpenFiles
		if c.BornIn, c.Joins, err = l.group.Entrances(l.req.UID); err != nil {
			return c, err
		}
	}
	if c.Root, err = os.Open(l.home.root()); err != nil {
		return c, err
	}
	// The VMM has both ends, so that what it says waits where no metald is there.
	events, err := os.OpenFile(filepath.Join(l.req.RunDir, eventsName), os.O_RDWR|syscall.O_NONBLOCK, 0)
	if err == nil {
		c.Files = []*os.File{events}
	}
	return c, err
}

// ready waits for Cloud Hypervisor and gives it the VM.
func (l *launch) ready(ctx context.Context, m *machine) error {
	waiting, cancel := context.WithTimeout(ctx, readyTimeout)
	defer cancel()
	defer m.onExit(cancel)()
	if err := l.root.Await(waiting, apiSocket); err != nil {
		return fmt.Errorf("it did not make its API's socket: %w", err)
	}
	m.api = newClient(dial(l.root, m.handle.Process.PID))
	if err := m.greet(waiting); err != nil {
		return err
	}
	if err := m.api.create(waiting, l.plan.config); err != nil {
		return refused(types.KindInvalid, "config", err)
	}
	for i, n := range l.plan.networks {
		err := m.api.addNet(waiting, n.overFiles(), l.taps[i])
		if err != nil {
			return refused(types.KindPrecondition, fmt.Sprintf("config.network[%d].tap_device", i), err)
		}
	}
	info, err := m.api.info(waiting)
	if err == nil && info.State != stateCreated {
		err = fmt.Errorf("its VM is %q before it was booted", info.State)
	}
	return err
}

// refused is an error of the seam's for a call that has to do with a field.
func refused(kind types.Kind, field string, err error) error {
	var fault *fault
	if errors.As(err, &fault) {
		return types.FieldErrorf(kind, field, "%w", err)
	}
	return err
}

func startError(ctx context.Context, err error) error {
	var kinded *types.Error
	switch {
	case ctx.Err() != nil:
		return types.Errorf(types.KindCanceled, "%w", err)
	case errors.As(err, &kinded):
		return err
	}
	return types.Errorf(types.KindUnavailable, "%w", err)
}

// undo removes what a launch that did not succeed made. Where its process could not be ended, nothing is taken from it:
// the handle finds it.
func (l *launch) undo(ctx context.Context) error {
	if l.alive {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), killTimeout)
	defer cancel()
	var errs []error
	if l.group != nil {
		errs = append(errs, l.home.removeGroup(ctx))
	}
	errs = append(errs, cage.Restore(l.home.private.Lent))
	if !l.rootMade {
		l.home.private.Root = ""
	}
	if l.runDir {
		errs = append(errs, l.home.removeRunDir(ctx))
	}
	return errors.Join(errs...)
}

func (l *launch) close() {
	if l.root != nil {
		l.root.Close()
	}
	for _, file := range l.taps {
		file.Close()
	}
}
