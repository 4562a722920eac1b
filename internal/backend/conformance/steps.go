package conformance

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/unkeyed/unkey/go/deploy/metald/internal/backend/types"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/guest"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/vm"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/vm/lifecycle"
)

// spec is a small VM; args are added to the kernel's.
func (s *site) spec(args ...string) types.Spec {
	spec := types.Spec{
		CPU:     types.CPU{Count: 1},
		Memory:  types.Memory{SizeBytes: 128 << 20},
		Boot:    types.Boot{KernelPath: s.h.Kernel, KernelArgs: strings.TrimSpace(s.h.KernelArgs + " " + strings.Join(args, " "))},
		Console: types.Console{Enabled: true},
	}
	if s.h.RootDisk != "" {
		spec.Disks = []types.Disk{{ID: "root", Path: s.h.RootDisk, Root: true}}
	}
	return spec
}

// volume makes a file of 1 MiB in the volumes directory and returns a disk on it.
func (s *site) volume(name string) types.Disk {
	s.t.Helper()
	path := filepath.Join(s.volumes, name)
	if err := os.WriteFile(path, make([]byte, 1<<20), 0o666); err != nil {
		s.t.Fatal(err)
	}
	return types.Disk{ID: name, Path: path}
}

func (s *site) ctx() context.Context { return s.t.Context() }

func (s *site) create(id types.VMID, spec types.Spec) vm.Info {
	s.t.Helper()
	info, err := s.Create(s.ctx(), id, spec)
	if err != nil {
		s.t.Fatalf("create %s: %v", id, err)
	}
	s.seen.note(info)
	return info
}

func (s *site) boot(id types.VMID) vm.Info {
	s.t.Helper()
	info, err := s.Boot(s.ctx(), id)
	if err != nil {
		s.t.Fatalf("boot %s: %v", id, err)
	}
	return info
}

// running makes a VM whose vCPUs run.
func (s *site) running(id types.VMID, args ...string) vm.Info {
	s.t.Helper()
	s.create(id, s.spec(args...))
	return s.boot(id)
}

// guest makes a VM whose guest has reached user space.
func (s *site) guest(id types.VMID, args ...string) vm.Info {
	s.t.Helper()
	info := s.running(id, args...)
	s.hears(id, guest.Marker)
	return info
}

// get returns what is known of a VM.
func (s *site) get(id types.VMID) vm.Info {
	s.t.Helper()
	info, err := s.Get(id)
	if err != nil {
		s.t.Fatalf("get %s: %v", id, err)
	}
	return info
}

// wantState checks the state that Get and List tell.
func (s *site) wantState(id types.VMID, want lifecycle.State) vm.Info {
	s.t.Helper()
	info := s.get(id)
	if info.State != want {
		s.t.Fatalf("%s is %s, want %s", id, info.State, want)
	}
	for _, listed := range s.all() {
		if listed.ID == id && listed.State != want {
			s.t.Fatalf("%s is listed as %s, want %s", id, listed.State, want)
		}
	}
	return info
}

// reaches waits until a VM is in a state.
func (s *site) reaches(id types.VMID, want lifecycle.State, within time.Duration) vm.Info {
	s.t.Helper()
	return s.becomes(id, want.String(), within, func(info vm.Info) bool { return info.State == want })
}

func (s *site) becomes(id types.VMID, what string, within time.Duration, is func(vm.Info) bool) vm.Info {
	s.t.Helper()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(within); ; <-tick.C {
		info := s.get(id)
		if is(info) {
			return info
		}
		if time.Now().After(deadline) {
			s.t.Fatalf("%s did not become %s within %s: it is %s, health %q, exit %+v; its console ends in\n%s",
				id, what, within, info.State, info.Health, info.Exit, s.lastWords(id))
		}
	}
}

// hears waits until the guest has said text on its console, since the VM was created.
func (s *site) hears(id types.VMID, text string) { s.t.Helper(); s.hearsTimes(id, text, 1) }

func (s *site) hearsTimes(id types.VMID, text string, times int) {
	s.t.Helper()
	log, err := s.Console(id)
	if err != nil {
		s.t.Fatalf("console of %s: %v", id, err)
	}
	ctx, cancel := context.WithTimeout(s.ctx(), s.h.BootTimeout)
	defer cancel()
	var heard strings.Builder
	begun := time.Now()
	defer func() {
		if took := time.Since(begun); took > s.h.BootTimeout/4 {
			s.t.Logf("%s took %s to say %q; it said:\n%s", id, took, text, heard.String())
		}
	}()
	for r := log.Reader(-1); strings.Count(heard.String(), text) < times; {
		chunk, err := r.Next(ctx, true)
		if err != nil {
			s.t.Fatalf("%s did not say %q %d times on its console (%v); it said:\n%s", id, text, times, err, heard.String())
		}
		heard.Write(chunk.Bytes)
	}
}

// lastWords is the end of a VM's console.
func (s *site) lastWords(id types.VMID) []byte {
	log, err := s.Console(id)
	if err != nil {
		return nil
	}
	tail, _ := log.Tail(2 << 10) // for people only
	return tail
}

// wantKind checks what kind of error err is, and which field it names.
func (s *site) wantKind(err error, kind types.Kind, field string) {
	s.t.Helper()
	if err == nil {
		s.t.Fatalf("no error, want one of kind %d about %q", kind, field)
	}
	var e *types.Error
	if !errors.As(err, &e) || e.Kind != kind || e.Field != field {
		s.t.Fatalf("error of kind %d: %v; want kind %d about %q", types.KindOf(err), err, kind, field)
	}
}

// wantExit checks why the last VMM of a VM ended.
func (s *site) wantExit(info vm.Info, reason string) {
	s.t.Helper()
	if info.Exit == nil || info.Exit.Reason != reason {
		s.t.Fatalf("%s ended with %+v, want the reason %s", info.ID, info.Exit, reason)
	}
	if info.PID != 0 || info.ExitedAt.IsZero() {
		s.t.Fatalf("%s has ended: pid %d, exited at %v", info.ID, info.PID, info.ExitedAt)
	}
}

// async calls f on a goroutine and returns where its error will be.
func async(f func() error) <-chan error {
	done := make(chan error, 1)
	go func() { done <- f() }()
	return done
}

// wait returns the error of an async call.
func (s *site) wait(done <-chan error, what string) error {
	s.t.Helper()
	select {
	case err := <-done:
		return err
	case <-time.After(max(patience, s.h.BootTimeout)):
		s.t.Fatalf("%s did not return", what)
		return nil
	}
}
