package store_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/unkeyed/unkey/go/deploy/metald/internal/backend/types"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/vm/lifecycle"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/vm/store"
)

// opener opens the same store again and again.
type opener func(t *testing.T) store.Store

// stores are the stores that must behave alike.
func stores(t *testing.T) map[string]opener {
	path := filepath.Join(t.TempDir(), "vms.db")
	failingPath := filepath.Join(t.TempDir(), "vms.db")
	mem := store.NewMem()
	return map[string]opener{
		"Mem":     func(*testing.T) store.Store { return mem },
		"Bolt":    func(t *testing.T) store.Store { return openBolt(t, path) },
		"Failing": func(t *testing.T) store.Store { return &store.Failing{Store: openBolt(t, failingPath)} },
	}
}

func openBolt(t testing.TB, path string) *store.Bolt {
	t.Helper()
	s, err := store.OpenBolt(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

func TestStore(t *testing.T) {
	for name, test := range map[string]func(t *testing.T, open opener){
		"is empty at first": func(t *testing.T, open opener) {
			s := open(t)
			wantRecords(t, s)
			wantLastSeq(t, s, 0)
		},
		"returns what was put": func(t *testing.T, open opener) {
			s := open(t)
			full := fullRecord()
			put(t, s, full)
			full.Version = store.Version
			wantRecords(t, s, full)
		},
		"keeps it when opened again": func(t *testing.T, open opener) {
			s := open(t)
			full := fullRecord()
			put(t, s, full)
			full.Version = store.Version
			wantRecords(t, reopen(t, s, open), full)
		},
		"replaces a record that is put again": func(t *testing.T, open opener) {
			s := open(t)
			put(t, s, record("vm", 1), record("other", 2))
			changed := record("vm", 1)
			changed.State, changed.Handle = lifecycle.Running, &types.Handle{VM: "vm"}
			put(t, s, changed)
			changed.Handle = nil
			put(t, s, changed)
			wantRecords(t, s, changed, record("other", 2))
			wantRecords(t, reopen(t, s, open), changed, record("other", 2))
		},
		"returns records in order of creation": func(t *testing.T, open opener) {
			s := open(t)
			put(t, s, record("b", 3), record("c", 1), record("a", 300), record("d", 2))
			wantRecords(t, s, record("c", 1), record("d", 2), record("b", 3), record("a", 300))
		},
		"deletes": func(t *testing.T, open opener) {
			s := open(t)
			put(t, s, record("a", 1), record("b", 2))
			remove(t, s, "a")
			wantRecords(t, s, record("b", 2))
			wantRecords(t, reopen(t, s, open), record("b", 2))
		},
		"deletes what is not there": func(t *testing.T, open opener) {
			s := open(t)
			put(t, s, record("a", 1))
			remove(t, s, "b")
			remove(t, s, "b")
			wantRecords(t, s, record("a", 1))
		},
		"takes an id again that was deleted": func(t *testing.T, open opener) {
			s := open(t)
			put(t, s, record("a", 1))
			remove(t, s, "a")
			put(t, s, record("a", 2))
			wantRecords(t, reopen(t, s, open), record("a", 2))
		},
		"knows the largest Seq after its record is gone": func(t *testing.T, open opener) {
			s := open(t)
			put(t, s, record("a", 7), record("b", 9), record("c", 8))
			wantLastSeq(t, s, 9)
			remove(t, s, "b")
			wantLastSeq(t, s, 9)
			s = reopen(t, s, open)
			wantLastSeq(t, s, 9)
			remove(t, s, "a")
			remove(t, s, "c")
			s = reopen(t, s, open)
			wantRecords(t, s)
			wantLastSeq(t, s, 9)
		},
		"refuses a record without an id": func(t *testing.T, open opener) {
			s := open(t)
			if err := s.Put(record("", 5)); err == nil {
				t.Error("no error")
			}
			wantRecords(t, s)
			wantLastSeq(t, s, 0)
		},
		"refuses what cannot be encoded, by name": func(t *testing.T, open opener) {
			s := open(t)
			bad := record("vm", 5)
			bad.Handle = &types.Handle{Private: json.RawMessage("{")}
			if err := s.Put(bad); err == nil || !strings.Contains(err.Error(), "save vm") {
				t.Errorf("%v, want an error that names the VM", err)
			}
			wantRecords(t, s)
			wantLastSeq(t, s, 0)
		},
		"does not share memory with its caller": func(t *testing.T, open opener) {
			s := open(t)
			r := record("vm", 1)
			r.Spec.Metadata = map[string]string{"k": "v"}
			put(t, s, r)
			r.Spec.Metadata["k"] = "changed"
			all, err := s.All()
			if err != nil || all[0].Spec.Metadata["k"] != "v" {
				t.Errorf("%v, %v", all, err)
			}
			all[0].Spec.Metadata["k"] = "changed"
			r.Spec.Metadata["k"] = "v"
			wantRecords(t, s, r)
		},
		"serves 16 writers at once": func(t *testing.T, open opener) {
			s := open(t)
			want := manyWriters(t, s)
			wantRecords(t, s, want...)
			s = reopen(t, s, open)
			wantRecords(t, s, want...)
			wantLastSeq(t, s, 16*50)
		},
	} {
		t.Run(name, func(t *testing.T) {
			for kind, open := range stores(t) {
				t.Run(kind, func(t *testing.T) { test(t, open) })
			}
		})
	}
}

// manyWriters has 16 writers put and delete, while others read, and returns what must be there then.
func manyWriters(t *testing.T, s store.Store) (want []store.Record) {
	t.Helper()
	const writers, each = 16, 50
	var all sync.WaitGroup
	for w := range writers {
		all.Go(func() {
			for i := range each {
				r := record(types.VMID(fmt.Sprintf("vm-%d-%d", w, i)), uint64(w*each+i+1))
				r.State = lifecycle.Created
				err := s.Put(r)
				r.State = lifecycle.Running
				err = errors.Join(err, s.Put(r))
				if i%2 == 0 {
					err = errors.Join(err, s.Delete(r.ID))
				}
				if err != nil {
					t.Error(err)
				}
			}
		})
	}
	stop := make(chan struct{})
	var reader sync.WaitGroup
	reader.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
			}
			records, err := s.All()
			if err != nil || !slices.IsSortedFunc(records, func(a, b store.Record) int { return int(a.Seq) - int(b.Seq) }) {
				t.Errorf("read while others write: %v", err)
				return
			}
		}
	})
	all.Wait()
	close(stop)
	reader.Wait()
	for w := range writers {
		for i := 1; i < each; i += 2 {
			r := record(types.VMID(fmt.Sprintf("vm-%d-%d", w, i)), uint64(w*each+i+1))
			r.State = lifecycle.Running
			want = append(want, r)
		}
	}
	return want
}

func TestFailing(t *testing.T) {
	errDisk := errors.New("the disk is on fire")
	inner := store.NewMem()
	put(t, inner, record("a", 1))
	f := &store.Failing{
		Store: inner,
		OnPut: func(r store.Record) error {
			if r.ID == "bad" {
				return errDisk
			}
			return nil
		},
		OnDelete: func(id types.VMID) error { return errDisk },
		OnAll:    func() error { return errDisk },
	}
	if err := f.Put(record("bad", 2)); !errors.Is(err, errDisk) {
		t.Errorf("Put: %v", err)
	}
	if err := f.Put(record("good", 3)); err != nil {
		t.Errorf("Put: %v", err)
	}
	if err := f.Delete("a"); !errors.Is(err, errDisk) {
		t.Errorf("Delete: %v", err)
	}
	if _, err := f.All(); !errors.Is(err, errDisk) {
		t.Errorf("All: %v", err)
	}
	wantRecords(t, inner, record("a", 1), record("good", 3))
}

func record(id types.VMID, seq uint64) store.Record {
	return store.Record{Version: store.Version, ID: id, Seq: seq, Phase: store.Live, State: lifecycle.Created}
}

// fullRecord has something in every field, so that one that is not kept is missed.
func fullRecord() store.Record {
	at := time.Date(2026, 3, 4, 5, 6, 7, 890_123_456, time.UTC)
	options := map[string]string{"a": "1", "Ünï \"quoted\"\n": ""}
	return store.Record{
		ID: "vm-full", Seq: 1<<53 + 1, Slot: 7, Phase: store.Deleting, State: lifecycle.Paused, Backend: "qemu", Tenant: "acme",
		Spec: types.Spec{
			CPU: types.CPU{Count: 2, Max: 4, Topology: &types.Topology{Sockets: 1, CoresPerSocket: 2, ThreadsPerCore: 2},
				Features: options},
			Memory:   types.Memory{SizeBytes: 1<<62 + 1, Hotplug: true, MaxSizeBytes: 1<<62 + 3, Backing: options},
			Boot:     types.Boot{KernelPath: "/k", InitrdPath: "/i", KernelArgs: "a=<b>&c", Options: options},
			Disks:    []types.Disk{{ID: "d", Path: "/d", ReadOnly: true, Root: true, Interface: "virtio-blk", Options: options}},
			Networks: []types.Network{{ID: "n", MAC: "02:00:00:00:00:01", Tap: "tap0", Interface: "virtio-net", Options: options}},
			Console:  types.Console{Enabled: true, Output: "log", Input: "none", Type: "serial", Asked: true},
			Metadata: options,
		},
		Volumes:     []store.Volume{{Disk: 1, Device: 1<<63 + 1, Inode: 1<<63 + 3, Born: 1<<62 + 1, ReadOnly: true}},
		Incarnation: 9,
		Handle: &types.Handle{Version: 1, Backend: "qemu", VM: "vm-full", Incarnation: 9,
			Process: types.ProcessIdentity{PID: 1234, StartTicks: 1<<63 + 5, BootID: "b", ExeDevice: 1, ExeInode: 2, ViaDevice: 5, ViaInode: 6},
			RunDir:  "/run/vm-full.9", VMM: "QEMU", VMMVersion: "7.2", Private: json.RawMessage(`{"n":1.50}`)},
		VMM: "QEMU", VMMVersion: "7.2",
		CreatedAt: at, ModifiedAt: at.Add(1), BootedAt: at.Add(2),
		Exit: &types.Exit{Reason: types.ReasonKilled, Detail: "d", Code: -1, Signal: 9}, ExitedAt: at.Add(3),
		RebootBy: at.Add(4),
	}
}

func put(t *testing.T, s store.Store, records ...store.Record) {
	t.Helper()
	for _, r := range records {
		if err := s.Put(r); err != nil {
			t.Fatal(err)
		}
	}
}

func remove(t *testing.T, s store.Store, id types.VMID) {
	t.Helper()
	if err := s.Delete(id); err != nil {
		t.Fatal(err)
	}
}

func reopen(t *testing.T, s store.Store, open opener) store.Store {
	t.Helper()
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	return open(t)
}

func wantRecords(t *testing.T, s store.Store, want ...store.Record) {
	t.Helper()
	got, err := s.All()
	if err != nil {
		t.Fatal(err)
	}
	if len(got) == 0 && len(want) == 0 {
		return
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("records (-want +got):\n%s", diff)
	}
}

func wantLastSeq(t *testing.T, s store.Store, want uint64) {
	t.Helper()
	if got, err := s.LastSeq(); err != nil || got != want {
		t.Errorf("LastSeq: %d, %v; want %d", got, err, want)
	}
}
