package fake

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/unkeyed/unkey/go/deploy/metald/internal/backend/types"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/host/dir"
)

// Name selects this backend. It is not in the list of backends that metald offers.
const Name = "fake"

// Backend makes machines on a Host.
type Backend struct {
	name string
	host *Host
}

var _ types.Backend = (*Backend)(nil)

// New returns a Backend over host, which may have machines of an earlier one.
func New(host *Host) *Backend { return Called(Name, host) }

// Called returns a Backend of another name, for a fleet of several. Each takes over its own machines only.
func Called(name string, host *Host) *Backend { return &Backend{name: name, host: host} }

// Name returns "fake", or what it was called.
func (b *Backend) Name() string { return b.name }

// Prepare has nothing to find out.
func (b *Backend) Prepare(context.Context) error { return nil }

// Sweep finds nothing: a fake has nothing outside of its run directories.
func (b *Backend) Sweep(context.Context, []types.Handle) error { return nil }

// Check finds nothing missing.
func (b *Backend) Check(context.Context) error { return nil }

// Capabilities denies enough to be refused something.
func (b *Backend) Capabilities() types.Capabilities {
	return types.Capabilities{
		MaxVCPUs: 8, MinMemoryBytes: 16 << 20, MaxDisks: 8, MaxNetworks: 4,
		Fields: map[types.Field]types.Support{
			types.FieldInitrd:        {OK: true},
			types.FieldDiskInterface: {OK: true, Values: []string{"virtio-blk"}},
			types.FieldConsoleType:   {OK: true, Values: []string{"serial"}},
			types.FieldHotplug:       {Note: "memory is imaginary"},
			types.FieldNetwork:       {OK: true},
		},
	}
}

// Create starts a process that does nothing until it is booted.
func (b *Backend) Create(ctx context.Context, req types.CreateRequest) (types.Machine, error) {
	if err := b.host.hook(ctx, VerbCreate, req.ID); err != nil {
		return nil, err
	}
	if err := errors.Join(ctx.Err(), isKernel(req.Kernel)); err != nil {
		return nil, err
	}
	if err := os.Mkdir(req.RunDir, 0o700); err != nil {
		return nil, types.Errorf(types.KindInternal, "make the run directory: %w", err)
	}
	if err := os.WriteFile(filepath.Join(req.RunDir, "vmm.sock"), nil, 0o600); err != nil {
		return nil, errors.Join(err, dir.Remove(req.RunDir))
	}
	m := &machine{process: b.host.start(req), host: b.host, exited: make(chan struct{}), told: req.Ended, stopped: req.Stopped}
	m.process.attached = m
	m.handle = types.Handle{
		Version: 1, Backend: b.name, VM: req.ID, Incarnation: req.Incarnation, Process: m.process.id, RunDir: req.RunDir,
		VMM: "Fake", VMMVersion: "1.0",
	}
	err := req.Commit(m.handle)
	if err == nil {
		err = errors.Join(b.host.hook(ctx, VerbCreated, req.ID), ctx.Err())
	}
	if err == nil && m.hasExited() {
		err = types.Errorf(types.KindUnavailable, "the VMM ended before it could be talked to")
	}
	if err != nil {
		m.process.end(types.Exit{Reason: types.ReasonForced})
		return nil, errors.Join(err, dir.Remove(req.RunDir))
	}
	return m, nil
}

// isKernel knows an ELF and a bzImage by their magic.
func isKernel(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return types.FieldErrorf(types.KindInvalid, "config.boot.kernel_path", "%w", err)
	}
	defer f.Close()
	head := make([]byte, 0x206)
	n, err := io.ReadFull(f, head)
	if err != nil && !errors.Is(err, io.ErrUnexpectedEOF) && !errors.Is(err, io.EOF) {
		return types.FieldErrorf(types.KindInvalid, "config.boot.kernel_path", "%w", err)
	}
	if bytes.HasPrefix(head[:n], []byte("\x7fELF")) || bytes.Equal(head[0x202:], []byte("HdrS")) {
		return nil
	}
	return types.FieldErrorf(types.KindInvalid, "config.boot.kernel_path", "this is neither an ELF nor a bzImage")
}

// Adopt takes over a process that an earlier Backend let go.
func (b *Backend) Adopt(ctx context.Context, req types.AdoptRequest) (types.Machine, error) {
	h := req.Handle
	if h.Backend != b.name {
		return nil, fmt.Errorf("a handle of the backend %q", h.Backend)
	}
	if err := b.host.hook(ctx, VerbAdopt, h.VM); err != nil {
		return nil, err
	}
	p := b.host.match(h.Process)
	if p == nil {
		return nil, fmt.Errorf("adopt VM %s: %w", h.VM, types.ErrGone)
	}
	m := &machine{process: p, host: b.host, handle: h, exited: make(chan struct{}), told: req.Ended, stopped: req.Stopped}
	if err := m.answers(ctx); err != nil {
		return nil, err
	}
	if err := m.attach(req.Console); err != nil {
		return nil, err
	}
	return m, nil
}

// Reap ends the process of a handle, if it is still that one. What one used that has ended is not known to a fake host.
func (b *Backend) Reap(ctx context.Context, h types.Handle) (last types.Usage, err error) {
	if err := b.host.hook(ctx, VerbReap, h.VM); err != nil {
		return types.Usage{}, err
	}
	if p := b.host.match(h.Process); p != nil {
		p.end(types.Exit{Reason: types.ReasonForced})
		last = p.usage()
	}
	return last, dir.Remove(h.RunDir)
}
