package conformance

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/unkeyed/unkey/go/deploy/metald/internal/backend/types"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/vm/lifecycle"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/vm/store"
)

const (
	kernelField = "config.boot.kernel_path"
	diskField   = "config.storage[0].path"
)

func createSentences() []sentence {
	return []sentence{
		{"a kernel that is none is refused by its field and leaves nothing", nil, badKernel},
		{"a file that is missing, or no file, or out of bounds is refused by its field and leaves nothing", nil, badPaths},
		{"a create whose record cannot be saved leaves nothing", nil, createUnsaved},
		{"a create whose caller gives up leaves nothing", nil, createCanceled},
		{"the same id with the same config is the same VM", nil, createSame},
		{"the same id with another config is refused", nil, createOther},
		{"concurrent creates of one id make one VM", nil, createConcurrently},
		{"an id that failed to be created can be used again", nil, createAfterFailure},
		{"what the capabilities deny is refused by name", nil, refusals},
	}
}

func badKernel(t *testing.T, s *site) {
	for name, content := range map[string]string{
		"text": strings.Repeat("this is no kernel\n", 100), "empty": "", "short": "\x7fEL",
	} {
		path := filepath.Join(s.volumes, name)
		if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
		spec := s.spec()
		spec.Boot.KernelPath = path
		_, err := s.Create(s.ctx(), "a", spec)
		s.wantKind(err, types.KindInvalid, kernelField)
		s.wantNothing()
	}
}

func badPaths(t *testing.T, s *site) {
	escape := filepath.Join(s.volumes, "escape")
	if err := os.Symlink("/etc/passwd", escape); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(filepath.Join(s.volumes, "directory"), 0o755); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{
		filepath.Join(s.volumes, "missing"), filepath.Join(s.volumes, "directory"), "/etc/passwd", "/dev/zero",
		s.volumes + "/../records", "relative", escape,
	} {
		spec := s.spec()
		spec.Boot.KernelPath = path
		_, err := s.Create(s.ctx(), "a", spec)
		s.wantKind(err, types.KindInvalid, kernelField)
		spec = s.spec()
		spec.Disks = []types.Disk{{ID: "root", Path: path, Root: true}}
		_, err = s.Create(s.ctx(), "a", spec)
		s.wantKind(err, types.KindInvalid, diskField)
		s.wantNothing()
	}
}

// intents are the moments of a create at which its record is saved.
var intents = []struct {
	what string
	is   func(store.Record) bool
}{
	{"the intent", func(rec store.Record) bool { return rec.Phase == store.Creating && rec.Handle == nil }},
	{"the handle", func(rec store.Record) bool { return rec.Phase == store.Creating && rec.Handle != nil }},
	{"the VM", func(rec store.Record) bool { return rec.Phase == store.Live }},
}

func createUnsaved(t *testing.T, s *site) {
	for _, intent := range intents {
		failed := false
		s.records.fail(func(rec store.Record) error {
			if intent.is(rec) {
				failed = true
				return errors.New("the disk is full")
			}
			return nil
		})
		_, err := s.Create(s.ctx(), "a", s.spec())
		if err == nil || !failed {
			t.Fatalf("%s could not be saved: error %v, asked to save it: %v", intent.what, err, failed)
		}
		s.records.fail(nil)
		s.wantNothing()
	}
}

func createCanceled(t *testing.T, s *site) {
	for _, intent := range intents {
		ctx, cancel := context.WithCancel(s.ctx())
		s.records.fail(func(rec store.Record) error {
			if intent.is(rec) {
				cancel()
			}
			return nil
		})
		if _, err := s.Create(ctx, "a", s.spec()); types.KindOf(err) != types.KindCanceled {
			t.Fatalf("the caller gave up when %s was saved: %v", intent.what, err)
		}
		s.records.fail(nil)
		s.wantNothing()
	}
}

func createSame(t *testing.T, s *site) {
	first := s.running("a")
	second, err := s.Create(s.ctx(), "a", s.spec())
	if err != nil || second.Seq != first.Seq || second.PID != first.PID || second.State != lifecycle.Running {
		t.Errorf("created again: %+v, %v; was %+v", second, err, first)
	}
	s.restart()
	third, err := s.Create(s.ctx(), "a", s.spec())
	if err != nil || third.Seq != first.Seq {
		t.Errorf("created again after a restart: %+v, %v", third, err)
	}
}

func createOther(t *testing.T, s *site) {
	first := s.create("a", s.spec())
	other := s.spec()
	other.Memory.SizeBytes += 1 << 20
	_, err := s.Create(s.ctx(), "a", other)
	s.wantKind(err, types.KindExists, "")
	if now := s.get("a"); now.Spec.Memory.SizeBytes != first.Spec.Memory.SizeBytes || now.PID != first.PID {
		t.Errorf("the VM is now %+v", now)
	}
}

func createConcurrently(t *testing.T, s *site) {
	var callers sync.WaitGroup
	seqs := make([]uint64, 8)
	for i := range seqs {
		callers.Go(func() {
			info, err := s.Create(s.ctx(), "a", s.spec())
			if err != nil {
				t.Error(err)
			}
			seqs[i] = info.Seq
		})
	}
	callers.Wait()
	for _, seq := range seqs {
		if seq != seqs[0] {
			t.Errorf("the callers got different VMs: %v", seqs)
		}
	}
	if all := s.all(); len(all) != 1 {
		t.Errorf("there are %d VMs", len(all))
	}
}

func createAfterFailure(t *testing.T, s *site) {
	bad := s.spec()
	bad.Boot.KernelPath = filepath.Join(s.volumes, "missing")
	if _, err := s.Create(s.ctx(), "a", bad); err == nil {
		t.Fatal("a missing kernel was taken")
	}
	s.create("a", s.spec())
}

func refusals(t *testing.T, s *site) {
	caps := s.backend.Capabilities()
	full := s.spec()
	full.CPU = types.CPU{Count: 1, Max: 2, Topology: &types.Topology{Sockets: 1, CoresPerSocket: 1, ThreadsPerCore: 1}, Features: map[string]string{"no-such-feature": ""}}
	full.Memory.Hotplug, full.Memory.MaxSizeBytes = true, full.Memory.SizeBytes*2
	full.Memory.Backing = map[string]string{"no-such-backing": ""}
	full.Boot.InitrdPath, full.Boot.Options = s.h.Kernel, map[string]string{"no-such-option": ""}
	full.Networks = []types.Network{{ID: "net", Tap: "tap0"}}
	full.Console.Input, full.Console.Type = "no-such-input", "no-such-type"
	named := map[string]bool{}
	for _, refusal := range caps.Refusals(s.backend.Name(), full) {
		named[refusal.Field] = true
	}
	for _, field := range []types.Field{
		types.FieldMaxVCPUs, types.FieldTopology, types.FieldHotplug, types.FieldMaxMemory, types.FieldInitrd, types.FieldNetwork,
	} {
		if named[string(field)] == caps.Fields[field].OK {
			t.Errorf("%s: supported %v, refused %v", field, caps.Fields[field].OK, named[string(field)])
		}
	}
	if refused := caps.Refusals(s.backend.Name(), s.spec()); len(refused) > 0 {
		t.Errorf("a plain VM is refused: %v", refused)
	}
	tooMany := s.spec()
	tooMany.CPU.Count = caps.MaxVCPUs + 1
	tooMany.Memory.SizeBytes = caps.MinMemoryBytes - 1
	if refused := caps.Refusals(s.backend.Name(), tooMany); len(refused) != 2 {
		t.Errorf("%d vCPUs and %d bytes: %v", tooMany.CPU.Count, tooMany.Memory.SizeBytes, refused)
	}
}
