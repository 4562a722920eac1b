package qemu

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"github.com/unkeyed/unkey/go/deploy/metald/internal/backend/tally"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/backend/types"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/host/dir"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/host/kvm"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/vmmprocess"
)

// Create starts a QEMU that holds the guest and waits for its first cont.
func (b *Backend) Create(ctx context.Context, req types.CreateRequest) (types.Machine, error) {
	accel, err := b.accel.choose(ctx)
	if err != nil {
		return nil, err
	}
	binary, err := b.binary()
	if err != nil {
		return nil, err
	}
	l := &launch{backend: b, req: req, binary: binary, private: private{Accel: accel}}
	defer l.closeFiles()
	if err := l.prepare(); err != nil {
		return nil, err
	}
	m, err := l.start(ctx)
	if err != nil {
		return nil, errors.Join(err, dir.Remove(req.RunDir))
	}
	return m, nil
}

// launch is a QEMU in the making.
type launch struct {
	backend *Backend
	req     types.CreateRequest
	binary  string
	private private

	sockets []*os.File // listening, and first among what is inherited
	images  []*os.File // kernel, initrd, disks, taps
	args    []string
}

// prepare opens what QEMU is to inherit, in the order that number gives, and makes the run directory last. After an
// error there is none.
func (l *launch) prepare() error {
	var err error
	h := hostFacts{accel: l.private.Accel, tscKHz: l.backend.tscKHz}
	l.args, err = arguments(l.req.ID, l.req.Spec, number(l.req.Spec, vmmprocess.FirstFile), h)
	if err != nil {
		return err
	}
	if err := l.openImages(); err != nil {
		return err
	}
	if err := vmmprocess.MakeRunDir(l.req.RunDir, l.req.UID, l.req.GID); err != nil {
		return err
	}
	if err := l.listen(); err != nil {
		return errors.Join(err, dir.Remove(l.req.RunDir))
	}
	return nil
}

func (l *launch) openImages() error {
	kernel, err := l.backend.kernels.Open(l.req.Kernel)
	if err == nil {
		kernel, err = forUser(kernel, l.req.UID)
	}
	if err := l.hold(kernel, err); err != nil {
		return err
	}
	if l.req.Spec.Boot.InitrdPath != "" {
		initrd, err := openPlain("config.boot.initrd_path", l.req.Initrd, os.O_RDONLY)
		if err == nil {
			initrd, err = forUser(initrd, l.req.UID)
		}
		if err := l.hold(initrd, err); err != nil {
			return err
		}
	}
	for i, d := range l.req.Spec.Disks {
		mode := os.O_RDWR
		if d.ReadOnly {
			mode = os.O_RDONLY
		}
		if err := l.hold(openPlain(fmt.Sprintf("config.storage[%d].path", i), l.req.Disks[i], mode)); err != nil {
			return err
		}
	}
	return l.openTaps()
}

// openTaps also notes the counters of the taps.
func (l *launch) openTaps() error {
	for i, n := range l.req.Spec.Networks {
		if err := l.hold(openTap(fmt.Sprintf("config.network[%d].tap_device", i), n.Tap)); err != nil {
			return err
		}
	}
	l.private.Taps = tally.Begin(l.req.Spec.Networks)
	return nil
}

func (l *launch) hold(file *os.File, err error) error {
	if err != nil {
		return err
	}
	l.images = append(l.images, file)
	return nil
}

// openPlain opens a regular file without waiting for anything.
func openPlain(field, path string, mode int) (*os.File, error) {
	file, err := os.OpenFile(path, mode|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, types.FieldErrorf(types.KindInvalid, field, "the file cannot be opened: %w", plain(err))
	}
	info, err := file.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = types.FieldErrorf(types.KindInvalid, field, "not a regular file")
	}
	if err != nil {
		file.Close()
		return nil, err
	}
	return file, nil
}

func (l *launch) listen() error {
	names := []string{controlSocket, statsSocket}
	if l.req.Spec.Console.Enabled {
		names = append(names, consoleSocket)
	}
	for _, name := range names {
		file, err := vmmprocess.Listen(l.req.RunDir, name)
		if err != nil {
			return err
		}
		l.sockets = append(l.sockets, file)
	}
	return vmmprocess.MakeStderr(filepath.Join(l.req.RunDir, stderrFile))
}

func (l *launch) closeFiles() {
	for _, file := range append(l.sockets, l.images...) {
		file.Close()
	}
	l.sockets, l.images = nil, nil
}

// start runs QEMU and talks to it until it is known to be as it should. After an error it is dead.
func (l *launch) start(ctx context.Context) (_ *machine, err error) {
	m := newMachine(l.handle(), l.req.Spec, l.private, l.req.Console, l.req.Ended, l.req.Stopped)
	if err := m.listen(l.backend.cfg.Drainer); err != nil {
		return nil, err
	}
	m.process, err = l.backend.cfg.Supervisor.Start(ctx, l.command(), func(id types.ProcessIdentity) error {
		m.handle.Process = id
		return l.req.Commit(m.handle)
	})
	if err != nil {
		m.words.Close()
		return nil, startError(ctx, err)
	}
	// Once metald's own listeners are closed, the end of QEMU is the end of the connections to it.
	conns, err := dialAll(ctx, l.req.RunDir, l.req.Spec.Console.Enabled)
	l.closeFiles()
	if err == nil {
		err = m.attach(ctx, conns, l.backend)
	}
	if err == nil {
		err = m.expectPrelaunch(ctx)
	}
	if err != nil {
		return nil, m.abandon(ctx, err)
	}
	go m.run()
	return m, nil
}

func (l *launch) handle() types.Handle {
	return types.Handle{
		Version: handleVersion, Backend: Name, VM: l.req.ID, Incarnation: l.req.Incarnation,
		RunDir: l.req.RunDir, VMM: vmmName, Private: l.private.encode(),
	}
}

func (l *launch) command() vmmprocess.Command {
	return vmmprocess.Command{
		Path: l.binary, Args: l.args,
		Files:  append(append([]*os.File(nil), l.sockets...), l.images...),
		Stderr: filepath.Join(l.req.RunDir, stderrFile),
		UID:    l.req.UID, GID: l.gid(),
	}
}

// gid is the group that QEMU runs in: that of /dev/kvm where it needs to be, to open it.
func (l *launch) gid() uint32 {
	if l.private.Accel == accelKVM && l.req.UID != 0 {
		if gid, needed := kvm.Group(); needed {
			return gid
		}
	}
	return l.req.GID
}

func startError(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return types.Errorf(types.KindCanceled, "%w", err)
	}
	var kinded *types.Error
	if errors.As(err, &kinded) {
		return err
	}
	return types.Errorf(types.KindUnavailable, "%w", err)
}

// conns are the connections to one QEMU.
type conns struct{ control, console *net.UnixConn }

func dialAll(ctx context.Context, runDir string, withConsole bool) (conns, error) {
	var c conns
	var err error
	if c.control, err = vmmprocess.Dial(ctx, runDir, controlSocket); err != nil {
		return c, err
	}
	if !withConsole {
		return c, nil
	}
	if c.console, err = vmmprocess.Dial(ctx, runDir, consoleSocket); err != nil {
		c.control.Close()
	}
	return c, err
}

func (c conns) close() {
	c.control.Close()
	if c.console != nil {
		c.console.Close()
	}
}

// expectPrelaunch sees that QEMU waits for cont. Nobody reads the monitor yet.
func (m *machine) expectPrelaunch(ctx context.Context) error {
	defer bound(ctx, m.control.conn, qmpTimeout)()
	status, err := queryStatus(ctx, m.control.exchange)
	if err == nil && status != "prelaunch" {
		err = fmt.Errorf("QEMU is %q before it was told to run", status)
	}
	return err
}

// abandon kills a QEMU that did not come up, and says why it did not.
func (m *machine) abandon(ctx context.Context, err error) error {
	died := ctx.Err() == nil && !errors.Is(err, errMute) && m.diesWithin(drainTimeout)
	killCtx, cancel := context.WithTimeout(context.WithoutCancel(ctx), killTimeout)
	defer cancel()
	killErr := m.process.Kill(killCtx)
	defer m.words.Close()
	if m.control != nil {
		m.control.close()
	}
	if m.console != nil {
		m.console.Close()
	}
	switch {
	case ctx.Err() != nil:
		err = types.Errorf(types.KindCanceled, "create VM %s: %w", m.handle.VM, err)
	case died:
		err = refusal(m.words.Text())
	default:
		err = types.Errorf(types.KindUnavailable, "create VM %s: %w", m.handle.VM, err)
	}
	return errors.Join(err, killErr)
}

// diesWithin tells whether QEMU has ended on its own.
func (m *machine) diesWithin(limit time.Duration) bool {
	timer := time.NewTimer(limit)
	defer timer.Stop()
	select {
	case <-m.process.Exited():
		return true
	case <-timer.C:
		return false
	}
}
