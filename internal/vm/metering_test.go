package vm_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"

	"github.com/unkeyed/unkey/go/deploy/metald/internal/backend/types"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/metering/usage"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/vm"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/vm/lifecycle"
)

// books is a Metering that holds the manager to the order in which lives are told. It outlives the manager, as the log
// does.
type books struct {
	t failer

	mu     sync.Mutex
	lives  map[types.VMID]*life // open
	closed []string             // vm.incarnation reason
	refuse error                // of Begin and Ready
}

type life struct {
	handle   types.Handle
	attached bool
	ready    bool
	states   []usage.State
}

func newBooks(t failer) *books { return &books{t: t, lives: map[types.VMID]*life{}} }

// restarted is that another metald reads the log.
func (b *books) restarted() {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, l := range b.lives {
		l.attached = false
	}
}

func (b *books) Begin(h types.Handle, _ types.Spec, _ string) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.refuse != nil {
		return b.refuse
	}
	if l := b.lives[h.VM]; l != nil && l.attached { // else a metald began it that died before it saved anything of it
		b.t.Errorf("%s.%d begins while %d is open", h.VM, h.Incarnation, l.handle.Incarnation)
	}
	b.lives[h.VM] = &life{handle: h}
	return nil
}

func (b *books) Attach(m types.Machine) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if l := b.open(m.Handle().VM, "attach"); l != nil {
		if l.handle.Incarnation != m.Handle().Incarnation || l.attached {
			b.t.Errorf("%s: incarnation %d is attached to %d", m.Handle().VM, m.Handle().Incarnation, l.handle.Incarnation)
		}
		l.attached = true
	}
}

func (b *books) Ready(_ context.Context, id types.VMID) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.refuse != nil {
		return b.refuse
	}
	if l := b.open(id, "ready"); l != nil {
		l.ready = true
	}
	return nil
}

func (b *books) Adopt(m types.Machine, _ types.Spec, _ string, state usage.State) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	h := m.Handle()
	if l := b.lives[h.VM]; l == nil || l.handle.Incarnation != h.Incarnation {
		b.t.Errorf("%s.%d is adopted, and its life is not open", h.VM, h.Incarnation)
		return nil
	}
	b.lives[h.VM].attached = true
	b.lives[h.VM].states = append(b.lives[h.VM].states, state)
	return nil
}

func (b *books) Enter(id types.VMID, state usage.State) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if l := b.open(id, "enter "+state.String()); l != nil {
		if (state == usage.Booting || state == usage.Running) && !l.ready && len(l.states) == 0 {
			b.t.Errorf("%s: %s before its life was kept for good", id, state)
		}
		l.states = append(l.states, state)
	}
}

func (b *books) End(id types.VMID, last types.Usage, reason string) vm.Kept {
	b.mu.Lock()
	defer b.mu.Unlock()
	if l := b.open(id, "end"); l != nil {
		if last.CPUTime == nil {
			b.t.Errorf("%s.%d ends, and what it used in all is not told", id, l.handle.Incarnation)
		}
		b.closed = append(b.closed, fmt.Sprintf("%s.%d %s", id, l.handle.Incarnation, reason))
		delete(b.lives, id)
	}
	return b.kept
}

func (b *books) Lost(h types.Handle, _ types.Usage, reason string) vm.Kept {
	b.mu.Lock()
	defer b.mu.Unlock()
	if l := b.lives[h.VM]; l != nil && l.handle.Incarnation == h.Incarnation {
		b.closed = append(b.closed, fmt.Sprintf("%s.%d %s", h.VM, h.Incarnation, reason))
		delete(b.lives, h.VM)
	}
	return b.kept
}

// kept: what the books have they keep.
func (b *books) kept(context.Context) error { return nil }

// open is called with mu held.
func (b *books) open(id types.VMID, what string) *life {
	l := b.lives[id]
	if l == nil {
		b.t.Errorf("%s: %s, and no life is open", id, what)
	}
	return l
}

// close fails the test for lives that are open when every VM is gone.
func (b *books) close() {
	b.mu.Lock()
	defer b.mu.Unlock()
	for id, l := range b.lives {
		b.t.Errorf("the life %s.%d was never closed", id, l.handle.Incarnation)
	}
}

func (b *books) wantClosed(t *testing.T, want ...string) {
	t.Helper()
	b.mu.Lock()
	defer b.mu.Unlock()
	if got := fmt.Sprint(b.closed); got != fmt.Sprint(want) {
		t.Errorf("closed %s, want %s", got, want)
	}
}

func TestEachVMMIsMeteredAsALifeOfItsOwn(t *testing.T) {
	d := newMetald(t)
	defer d.close()
	ctx := context.Background()
	d.mustCreateOn(t, "", "a")
	if _, err := d.Boot(ctx, "a"); err != nil {
		t.Fatal(err)
	}
	if _, err := d.Pause(ctx, "a"); err != nil {
		t.Fatal(err)
	}
	if _, err := d.Resume(ctx, "a"); err != nil {
		t.Fatal(err)
	}
	d.books.mu.Lock()
	if got, want := fmt.Sprint(d.books.lives["a"].states), fmt.Sprint([]usage.State{usage.Booting, usage.Running, usage.Paused, usage.Running}); got != want {
		t.Errorf("states %s, want %s", got, want)
	}
	d.books.mu.Unlock()
	if _, err := d.Reboot(ctx, "a", true, 0); err != nil {
		t.Fatal(err)
	}
	d.books.wantClosed(t, "a.1 forced")
	if err := d.Delete(ctx, "a", true); err != nil {
		t.Fatal(err)
	}
	d.books.wantClosed(t, "a.1 forced", "a.2 forced")
}

func TestWhatCannotBeMeteredIsNotStarted(t *testing.T) {
	d := newMetald(t)
	defer d.close()
	d.mustCreateOn(t, "", "a")
	d.books.mu.Lock()
	d.books.refuse = errors.New("the log takes nothing")
	d.books.mu.Unlock()
	_, err := d.Boot(context.Background(), "a")
	if types.KindOf(err) != types.KindUnavailable {
		t.Errorf("boot: %v", err)
	}
	if info, _ := d.Get("a"); info.State != lifecycle.Created {
		t.Errorf("the VM is %s", info.State)
	}
	if _, err := d.CreateOn(context.Background(), vm.CreateRequest{ID: "b", Spec: d.spec()}); types.KindOf(err) != types.KindUnavailable {
		t.Errorf("create: %v", err)
	}
	if _, err := d.Get("b"); types.KindOf(err) != types.KindNotFound {
		t.Errorf("get: %v", err)
	}
	if d.Lives("b", 0, "") {
		t.Error("it lives")
	}
	d.books.mu.Lock()
	d.books.refuse = nil
	d.books.mu.Unlock()
	if _, err := d.Boot(context.Background(), "a"); err != nil {
		t.Error(err)
	}
}

var _ vm.Metering = (*books)(nil)
