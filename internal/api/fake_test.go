package api

import (
	"cmp"
	"context"
	"fmt"
	"reflect"
	"slices"
	"sort"
	"sync"
	"time"

	"github.com/unkeyed/unkey/go/deploy/metald/internal/backend/types"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/console"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/vm"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/vm/lifecycle"
)

// memVMs is a manager without machines: it keeps the states that it is told.
type memVMs struct {
	mu    sync.Mutex
	seq   uint64
	vms   []*vm.Info // by Seq
	byID  map[types.VMID]*vm.Info
	usage types.Usage
	logs  map[types.VMID]*console.Log // put there by tests

	fail   error                           // what every verb answers, nil: what is right
	before func(ctx context.Context) error // runs first in every verb
	asked  []string                        // what the verbs were asked
}

func newMemVMs() *memVMs { return &memVMs{byID: map[types.VMID]*vm.Info{}} }

func (m *memVMs) enter(ctx context.Context, what string, args ...any) error {
	if m.before != nil {
		if err := m.before(ctx); err != nil {
			return err
		}
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.asked = append(m.asked, what+fmt.Sprint(args...))
	return m.fail
}

func (m *memVMs) lastAsked() string {
	m.mu.Lock()
	defer m.mu.Unlock()
	if len(m.asked) == 0 {
		return ""
	}
	return m.asked[len(m.asked)-1]
}

func (m *memVMs) CreateOn(ctx context.Context, req vm.CreateRequest) (vm.Info, error) {
	if err := m.enter(ctx, "create", req.Backend); err != nil {
		return vm.Info{}, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if known, ok := m.byID[req.ID]; ok {
		if !reflect.DeepEqual(known.Spec, req.Spec) || known.Tenant != cmp.Or(req.Tenant, vm.Unattributed) {
			return vm.Info{}, types.Errorf(types.KindExists, "VM %s exists with another config", req.ID)
		}
		return *known, nil
	}
	m.seq++
	id := req.ID
	if id == "" {
		id = types.VMID(fmt.Sprintf("vm%d", m.seq))
	}
	info := &vm.Info{
		ID: id, Seq: m.seq, Tenant: cmp.Or(req.Tenant, vm.Unattributed), Spec: req.Spec, State: lifecycle.Created, Backend: cmp.Or(req.Backend, "fake"),
		CreatedAt: time.Unix(1_700_000_000+int64(m.seq), 0), ModifiedAt: time.Unix(1_700_000_000+int64(m.seq), 0),
	}
	m.vms, m.byID[id] = append(m.vms, info), info
	return *info, nil
}

func (m *memVMs) apply(ctx context.Context, id types.VMID, event lifecycle.Event, to lifecycle.State, args ...any) (vm.Info, error) {
	if err := m.enter(ctx, event.String(), args...); err != nil {
		return vm.Info{}, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	info, ok := m.byID[id]
	if !ok {
		return vm.Info{}, types.Errorf(types.KindNotFound, "there is no VM %q on this host", id)
	}
	if _, err := lifecycle.Next(info.State, event); err != nil {
		return vm.Info{}, types.Errorf(types.KindPrecondition, "VM %s: %w", id, err)
	}
	info.State = to
	return *info, nil
}

func (m *memVMs) Boot(ctx context.Context, id types.VMID) (vm.Info, error) {
	return m.apply(ctx, id, lifecycle.Boot, lifecycle.Running)
}

func (m *memVMs) Pause(ctx context.Context, id types.VMID) (vm.Info, error) {
	return m.apply(ctx, id, lifecycle.Pause, lifecycle.Paused)
}

func (m *memVMs) Resume(ctx context.Context, id types.VMID) (vm.Info, error) {
	return m.apply(ctx, id, lifecycle.Resume, lifecycle.Running)
}

func (m *memVMs) Shutdown(ctx context.Context, id types.VMID, force bool, timeout time.Duration) (vm.Info, error) {
	event := lifecycle.AskShutdown
	if force {
		event = lifecycle.ForceShutdown
	}
	return m.apply(ctx, id, event, lifecycle.Shutdown, timeout)
}

func (m *memVMs) Reboot(ctx context.Context, id types.VMID, force bool, timeout time.Duration) (vm.Info, error) {
	event := lifecycle.AskReboot
	if force {
		event = lifecycle.ForceReboot
	}
	return m.apply(ctx, id, event, lifecycle.Running, timeout)
}

func (m *memVMs) Delete(ctx context.Context, id types.VMID, force bool) error {
	event := lifecycle.Delete
	if force {
		event = lifecycle.ForceDelete
	}
	if _, err := m.apply(ctx, id, event, lifecycle.Gone); err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.byID, id)
	m.vms = slices.DeleteFunc(m.vms, func(info *vm.Info) bool { return info.ID == id })
	return nil
}

func (m *memVMs) Get(id types.VMID) (vm.Info, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	info, ok := m.byID[id]
	if !ok {
		return vm.Info{}, types.Errorf(types.KindNotFound, "there is no VM %q on this host", id)
	}
	return *info, nil
}

func (m *memVMs) Usage(context.Context, types.VMID) (types.Usage, error) { return m.usage, nil }

func (m *memVMs) List(q vm.ListQuery) vm.ListPage {
	m.mu.Lock()
	defer m.mu.Unlock()
	var page vm.ListPage
	match := func(info *vm.Info) bool { return q.States == nil || slices.Contains(q.States, info.State) }
	if q.States == nil {
		page.Total = len(m.vms)
	} else {
		for _, info := range m.vms {
			if match(info) {
				page.Total++
			}
		}
	}
	from := sort.Search(len(m.vms), func(i int) bool { return m.vms[i].Seq > q.After })
	for _, info := range m.vms[from:] {
		if !match(info) {
			continue
		}
		if len(page.VMs) == q.Limit {
			page.Next = page.VMs[q.Limit-1].Seq
			break
		}
		page.VMs = append(page.VMs, *info)
	}
	return page
}

func (m *memVMs) Console(id types.VMID) (*console.Log, error) {
	if _, err := m.Get(id); err != nil {
		return nil, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.logs[id], nil
}

// allCapabilities is a backend that can do everything but topology and one invented interface.
func allCapabilities() types.Capabilities {
	fields := map[types.Field]types.Support{}
	for _, f := range []types.Field{
		types.FieldMaxVCPUs, types.FieldFeatures, types.FieldHotplug, types.FieldMaxMemory, types.FieldBacking,
		types.FieldInitrd, types.FieldBootOptions, types.FieldDiskOptions, types.FieldNetwork,
		types.FieldNetworkInterface, types.FieldNetworkOptions, types.FieldConsoleInput, types.FieldConsoleType,
	} {
		fields[f] = types.Support{OK: true}
	}
	fields[types.FieldDiskInterface] = types.Support{OK: true, Values: []string{"virtio-blk"}}
	return types.Capabilities{MaxVCPUs: 64, MinMemoryBytes: 16 << 20, MaxDisks: 8, MaxNetworks: 4, Fields: fields}
}

// fewCapabilities is a backend for small guests that have nothing special.
func fewCapabilities() types.Capabilities {
	return types.Capabilities{MaxVCPUs: 2, MinMemoryBytes: 16 << 20, MaxDisks: 1, Fields: map[types.Field]types.Support{}}
}
