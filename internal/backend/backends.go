// Package backend lists the hypervisors of this build: one line each. The choices of UNKEY_METALD_BACKEND, the
// matrix in the docs and what -check prints follow from the list.
package backend

import (
	"log/slog"
	"path/filepath"

	"github.com/unkeyed/unkey/go/deploy/metald/internal/backend/cage"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/backend/cloudhypervisor"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/backend/firecracker"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/backend/qemu"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/backend/types"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/console"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/vmmprocess"
)

// Host is what a backend is made from.
type Host struct {
	Supervisor *vmmprocess.Supervisor
	Drainer    *console.Drainer
	StateDir   string // a backend may keep what it found out about the host in a file of its name there
	AssetsDir  string // a kernel for trial boots may be there
	QEMUBinary string // "": found on PATH
	QEMUAccel  string // auto, kvm or tcg

	FirecrackerBinary string // "": found on PATH
	JailerBinary      string // likewise

	CloudHypervisorBinary string // "": found on PATH

	MustProveKVM bool  // a backend that needs KVM is usable only where a trial guest has come up
	Jail         *Jail // nil: Firecracker runs without its jailer, Cloud Hypervisor as the VM's user only

	Log *slog.Logger
}

// Jail says how a backend jails its VMMs, if it does.
type Jail = cage.Config

// Jails says whether VMMs of the backend called name are kept apart as Host.Jail says.
func Jails(name string) bool { return name == firecracker.Name || name == cloudhypervisor.Name }

// Descriptor is one backend of this build. New touches nothing of the host; that is for Check.
type Descriptor struct {
	Name string
	New  func(Host) (types.Backend, error)
}

// All lists the backends in the order in which auto prefers them.
func All() []Descriptor {
	return []Descriptor{
		{Name: firecracker.Name, New: newFirecracker},
		{Name: cloudhypervisor.Name, New: newCloudHypervisor},
		{Name: qemu.Name, New: newQEMU},
	}
}

func newFirecracker(h Host) (types.Backend, error) {
	return firecracker.New(firecracker.Config{
		Binary:       h.FirecrackerBinary,
		JailerBinary: h.JailerBinary,
		Jail:         h.Jail,
		StateDir:     h.StateDir,
		MustProve:    h.MustProveKVM,
		CanaryKernel: filepath.Join(h.AssetsDir, "vmlinux"),
		Supervisor:   h.Supervisor,
		Drainer:      h.Drainer,
		Log:          h.Log,
	})
}

func newCloudHypervisor(h Host) (types.Backend, error) {
	return cloudhypervisor.New(cloudhypervisor.Config{
		Binary:       h.CloudHypervisorBinary,
		Jail:         h.Jail,
		StateDir:     h.StateDir,
		MustProve:    h.MustProveKVM,
		CanaryKernel: filepath.Join(h.AssetsDir, "vmlinux"),
		Supervisor:   h.Supervisor,
		Drainer:      h.Drainer,
		Log:          h.Log,
	})
}

func newQEMU(h Host) (types.Backend, error) {
	return qemu.New(qemu.Config{
		Binary:       h.QEMUBinary,
		Accel:        h.QEMUAccel,
		StateDir:     h.StateDir,
		GroupsDir:    h.StateDir,
		CanaryKernel: filepath.Join(h.AssetsDir, "vmlinux"),
		Supervisor:   h.Supervisor,
		Drainer:      h.Drainer,
		Log:          h.Log,
	})
}

// Names lists the names of All.
func Names() []string {
	var names []string
	for _, d := range All() {
		names = append(names, d.Name)
	}
	return names
}
