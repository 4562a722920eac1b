package firecracker

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
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

// readyTimeout is how long a new Firecracker may take until it has made its socket: some milliseconds, and with many
// jails at once some hundred.
const readyTimeout = 20 * time.Second

// Create starts a Firecracker that holds the guest, configured and not started.
func (b *Backend) Create(ctx context.Context, req types.CreateRequest) (types.Machine, error) {
	l := &launch{backend: b, req: req, home: home{cage: b.cage, runDir: req.RunDir, private: private{UID: req.UID, GID: req.GID}}}
	if err := l.plan(ctx); err != nil {
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

// launch is a Firecracker in the making.
type launch struct {
	backend     *Backend
	req         types.CreateRequest
	firecracker binary
	jailer      binary
	calls       []call

	home    home
	alive   bool       // its process could not be ended
	runDir  bool       // it was made: what was there before is somebody else's, and stays
	jail    *jail.Jail // the VMM's root, with or without a jailer; nil before it was made
	files   cage.Files
	group   *cgroup.Group // nil without a jailer
	cgroups int           // their version; 0 without a jailer
	becomes vmmprocess.Executable
}

// plan finds out all that can be without leaving anything.
func (l *launch) plan(ctx context.Context) (err error) {
	if l.firecracker, l.jailer, err = l.backend.vmm(ctx); err != nil {
		return err
	}
	if l.backend.cfg.Jail != nil {
		if err := l.planJail(); err != nil {
			return err
		}
	} else {
		l.home.private.Root = l.req.RootDir
	}
	if err := l.backend.kernels.check(l.req.Kernel); err != nil {
		return err
	}
	l.calls, err = l.translate()
	return err
}

// translate returns the calls that configure Firecracker, with paths as it sees them.
func (l *launch) translate() ([]call, error) {
	out := sinks{metrics: l.home.inside(jailer.Metrics)}
	if l.req.Spec.Console.Enabled {
		out.console = l.home.inside(jailer.Console)
	}
	return translate(cage.Inside(l.req, l.home.inside), out)
}

func (l *launch) planJail() (err error) {
	if err := l.backend.openCage(); err != nil {
		return err
	}
	l.cgroups = l.backend.cage.Version()
	l.home.private.Jail = &jailed{
		Base: l.backend.cfg.Jail.Dir, Exec: filepath.Base(l.firecracker.Path),
		ID: jailer.IDOf(string(l.req.ID), l.req.Incarnation), Cgroup: l.backend.cage.Name(),
	}
	_, err = l.argv()
	return err
}

// argv are the arguments of the process that is started: the jailer, or Firecracker itself.
func (l *launch) argv() ([]string, error) {
	// What Firecracker says beyond warnings would be two lines per request.
	args := []string{"--api-sock", l.home.inside(jailer.Socket), "--level", "Warning"}
	j := l.home.private.Jail
	if j == nil {
		return append([]string{"--id", jailer.IDOf(string(l.req.ID), l.req.Incarnation)}, args...), nil
	}
	return jailer.Spec{
		ID: j.ID, ExecFile: l.firecracker.Path, UID: l.req.UID, GID: l.req.GID, ChrootBase: j.Base,
		CgroupVersion: l.cgroups, ParentCgroup: j.Cgroup + "/" + j.ID,
		MaxOpenFiles: l.backend.cfg.Jail.MaxOpenFiles, Args: args,
	}.Argv()
}

// prepare makes everything that Firecracker finds when it starts.
func (l *launch) prepare(ctx context.Context) error {
	if err := vmmprocess.MakeRunDir(l.req.RunDir, 0, 0); err != nil {
		return err
	}
	l.runDir = true
	if err := vmmprocess.MakeStderr(filepath.Join(l.req.RunDir, stderrName)); err != nil {
		return err
	}
	if err := l.makeRoot(); err != nil {
		return err
	}
	if err := l.place(ctx); err != nil {
		return err
	}
	if l.home.private.Jail == nil {
		return l.lendTaps()
	}
	return errors.Join(l.makeGroup(), l.lendTaps())
}

func (l *launch) makeRoot() error {
	root, err := l.home.root()
	if err != nil {
		return err
	}
	if l.home.private.Jail == nil {
		if err := vmmprocess.MakeRunDir(root, l.req.UID, l.req.GID); err != nil {
			return err
		}
		if l.jail, err = jail.Open(root); err != nil {
			return errors.Join(err, os.Remove(root))
		}
		return nil
	}
	if l.jail, err = jail.Make(root, jail.Owner{UID: l.req.UID, GID: l.req.GID}); err != nil {
		return err
	}
	l.becomes.Device, l.becomes.Inode, err = l.jail.Executable(l.home.private.Jail.Exec)
	return err
}

// place puts the VM's files into the root.
func (l *launch) place(ctx context.Context) error {
	for _, name := range []string{jailer.Metrics, jailer.Console} {
		if name == jailer.Console && !l.req.Spec.Console.Enabled {
			continue
		}
		if err := l.jail.FIFO(name); err != nil {
			return err
		}
	}
	if err := l.jail.Dir(jailer.RunDir); err != nil {
		return err
	}
	err := l.files.Place(ctx, l.jail, l.req)
	l.home.private.Lent = l.files.Lent
	return err
}

// lendTaps notes whose the VM's taps are, which its user is to open, and their counters.
func (l *launch) lendTaps() error {
	for i, n := range l.req.Spec.Networks {
		field := fmt.Sprintf("config.network[%d].tap_device", i)
		owner, err := tap.Owner(n.Tap)
		if errors.Is(err, tap.ErrName) {
			return types.FieldErrorf(types.KindInvalid, field, "%w", err)
		} else if err != nil {
			return types.FieldErrorf(types.KindPrecondition, field, "%w", err)
		}
		if os.Geteuid() == 0 { // else the VMM's user is metald's own
			l.home.private.LentTaps = append(l.home.private.LentTaps, tapLoan{Name: n.Tap, UID: owner})
		}
	}
	l.home.private.Taps = tally.Begin(l.req.Spec.Networks)
	return nil
}

func (l *launch) makeGroup() error {
	limits, err := l.backend.cage.Limits(overhead, l.req.Spec, l.req.Disks)
	if err != nil {
		return err
	}
	l.group, err = l.backend.cage.Parent().Make(l.home.private.Jail.ID, limits)
	return err
}

// start runs Firecracker and talks to it until it is known to be as it should. After an error it is dead.
func (l *launch) start(ctx context.Context) (_ *machine, err error) {
	m := newMachine(l.handle(), l.req.Spec, l.home, l.req.Console, l.req.Ended)
	if err := m.listen(l.backend.cfg.Drainer); err != nil {
		return nil, err
	}
	command, err := l.command()
	defer func() { // which nil allows, with an error
		command.Root.Close()
		command.BornIn.Close()
	}()
	if err == nil {
		m.process, err = l.backend.cfg.Supervisor.Start(ctx, command, func(id types.ProcessIdentity) error {
			m.handle.Process = id
			return l.commit(m.handle)
		})
	}
	if err != nil {
		m.unlife()
		m.words.Close()
		return nil, startError(ctx, err)
	}
	if err := l.ready(ctx, m); err != nil {
		err = m.abandon(ctx, err)
		l.alive = !m.died()
		return nil, err
	}
	m.jail, l.jail = l.jail, nil
	m.compare()
	go m.run()
	return m, nil
}

// commit has the handle made durable. Only then is anything of the host lent to the VM's user: what is lent can be
// given back, whenever metald dies.
func (l *launch) commit(h types.Handle) error {
	if err := l.req.Commit(h); err != nil {
		return err
	}
	if err := l.files.Give(); err != nil {
		return err
	}
	for i, t := range l.home.private.LentTaps {
		if err := tap.Give(t.Name, l.req.UID); err != nil {
			return types.FieldErrorf(types.KindPrecondition, fmt.Sprintf("config.network[%d].tap_device", i), "%w", err)
		}
	}
	return nil
}

func (l *launch) handle() types.Handle {
	return types.Handle{
		Version: handleVersion, Backend: Name, VM: l.req.ID, Incarnation: l.req.Incarnation,
		RunDir: l.req.RunDir, VMM: vmmName, VMMVersion: l.firecracker.Version.String(), Private: l.home.private.encode(),
	}
}

func (l *launch) command() (vmmprocess.Command, error) {
	args, err := l.argv()
	c := vmmprocess.Command{Path: l.firecracker.Path, Args: args, Stderr: filepath.Join(l.req.RunDir, stderrName)}
	if err != nil {
		return c, err
	}
	if j := l.backend.cfg.Jail; j != nil {
		c.Path, c.Becomes = l.jailer.Path, &l.becomes
		c.NewPIDNamespace, c.NewNetNamespace = j.PIDNamespace, j.NetNamespace
		c.BornIn, c.Joins, err = l.group.Entrances(0) // the jailer begins as root
		return c, err
	}
	c.UID, c.GID = l.req.UID, l.req.GID
	if gid, needed := kvm.Group(); needed && c.UID != 0 {
		c.GID = gid // to open /dev/kvm; the jailer makes one that is the VM's own
	}
	root, err := l.home.root()
	if err != nil {
		return c, err
	}
	c.Root, err = os.Open(root)
	return c, err
}

// ready waits for Firecracker and configures it.
func (l *launch) ready(ctx context.Context, m *machine) error {
	waiting, cancel := context.WithTimeout(ctx, readyTimeout)
	defer cancel()
	defer m.onExit(cancel)()
	if err := m.attach(l.jail, l.backend, true); err != nil { // while Firecracker begins
		return err
	}
	if err := l.jail.Await(waiting, jailer.Socket); err != nil {
		return fmt.Errorf("it did not make its API's socket: %w", err)
	}
	m.api = newClient(dial(l.jail, m.handle.Process.PID))
	v, err := m.answers(waiting)
	if err != nil {
		return err
	}
	if err := checkVersion(v); err != nil {
		return err
	}
	m.handle.VMMVersion = v.String()
	if err := m.api.configure(waiting, l.calls); err != nil {
		return err
	}
	return m.checkFIFOs(l.jail)
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
	if l.jail != nil {
		errs = append(errs, l.home.removeJail(ctx))
	}
	errs = append(errs, l.home.restoreLent())
	if l.runDir {
		errs = append(errs, l.home.removeRunDir(ctx))
	}
	return errors.Join(errs...)
}

func (l *launch) close() {
	if l.jail != nil {
		l.jail.Close()
	}
}
