package wal

import (
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"os"
	"slices"
	"sync"
	"syscall"
)

// disk is a Dir in memory that forgets and refuses as a real one may. What a process sees and what is on the platters
// are apart: contents by sectors of 512 bytes, and names.
//
// A sync that fails leaves pages clean that were not written, as Linux does, so that a second one would succeed without
// them. A process that syncs a file again after that breaks a rule, and so does one that counts on a short write.
type disk struct {
	mu       sync.Mutex
	names    map[string]*inode // as a process sees them
	platter  map[string]*inode
	unsynced []change
	room     int64 // bytes that files may take up in all; below zero is no end
	ops      int   // that changed something
	crashAt  int   // the operation that does not return: nothing works from then on
	effect   bool  // and has an effect
	fault    func(o op) error
	life     int // which process it is
	broken   []string
	log      []string
}

// op is an operation that a fault may hit.
type op struct {
	n    int
	kind string // create, rename, remove, syncdir, write, allocate, truncate, sync, read
	name string
}

// change is one of names: what had one of them, and now has another.
type change struct {
	gone, name string
	node       *inode
}

type inode struct {
	data, platter []byte
	dirty         map[int]bool
	failed        int // the life in which a sync of it failed, or zero
}

var (
	errCrash = errors.New("the process is gone")
	errShort = errors.New("short write") // to be returned by fault: half is written, and nothing told
)

const sector = 512

func newDisk() *disk {
	return &disk{names: map[string]*inode{}, platter: map[string]*inode{}, room: -1, crashAt: -1, life: 1}
}

// step counts an operation, and says whether it is to have an effect and which error it returns. The caller holds mu.
func (d *disk) step(kind, name string) (effect bool, err error) {
	if d.crashAt >= 0 && d.ops >= d.crashAt && kind != "read" {
		first := d.ops == d.crashAt
		d.ops++
		return first && d.effect, errCrash
	}
	o := op{d.ops, kind, name}
	if kind != "read" {
		d.ops++
		d.log = append(d.log, fmt.Sprintf("%d %s %s", o.n, kind, name))
	}
	if d.fault != nil {
		err = d.fault(o)
	}
	return err == nil, err
}

// restart is another process on a host that goes on: everything that was done is there, synced or not.
func (d *disk) restart() { d.life++ }

// reboot is what is left after the power went: keep says of each unsynced sector, and change of a name, whether it
// came to be.
func (d *disk) reboot(keep func() bool) {
	d.restart()
	for _, c := range d.unsynced {
		if keep() {
			c.apply(d.platter)
		}
	}
	d.unsynced = nil
	seen := map[*inode]bool{}
	for _, node := range d.names {
		seen[node] = true
	}
	for _, node := range d.platter {
		seen[node] = true
	}
	for node := range seen {
		node.lose(keep)
	}
	d.names = maps.Clone(d.platter)
}

func (c change) apply(names map[string]*inode) {
	if c.gone != "" {
		delete(names, c.gone)
	}
	if c.node != nil {
		names[c.name] = c.node
	}
}

func (n *inode) lose(keep func() bool) {
	for _, s := range slices.Sorted(maps.Keys(n.dirty)) {
		if keep() {
			n.flush(s)
		}
	}
	if len(n.data) != len(n.platter) && keep() {
		n.platter = resized(n.platter, len(n.data))
	}
	n.data, n.dirty = slices.Clone(n.platter), map[int]bool{}
}

func (n *inode) flush(s int) {
	from, to := s*sector, min((s+1)*sector, len(n.data))
	if from >= to {
		return
	}
	if len(n.platter) < to {
		n.platter = resized(n.platter, to)
	}
	copy(n.platter[from:to], n.data[from:to])
}

func resized(b []byte, n int) []byte {
	if n <= len(b) {
		return b[:n]
	}
	return append(b, make([]byte, n-len(b))...)
}

func (d *disk) used() int64 {
	var n int64
	for _, node := range d.names {
		n += int64(len(node.data))
	}
	return n
}

func (d *disk) claim(node *inode, size int) error {
	if d.room >= 0 && size > len(node.data) && d.used()+int64(size-len(node.data)) > d.room {
		return syscall.ENOSPC
	}
	return nil
}

func (d *disk) breaks(format string, args ...any) {
	d.broken = append(d.broken, fmt.Sprintf(format, args...))
}

func (d *disk) List() ([]string, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return slices.Sorted(maps.Keys(d.names)), nil
}

func (d *disk) Create(name string) (File, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	effect, err := d.step("create", name)
	if d.names[name] != nil {
		return nil, os.ErrExist
	}
	node := &inode{dirty: map[int]bool{}}
	if effect {
		d.note(change{name: name, node: node})
	}
	if err != nil {
		return nil, err
	}
	return &handle{disk: d, node: node, name: name, life: d.life}, nil
}

func (d *disk) note(c change) {
	c.apply(d.names)
	d.unsynced = append(d.unsynced, c)
}

func (d *disk) Open(name string) (File, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	node := d.names[name]
	if node == nil {
		return nil, fmt.Errorf("open %s: %w", name, os.ErrNotExist)
	}
	return &handle{disk: d, node: node, name: name, life: d.life}, nil
}

func (d *disk) Rename(from, to string) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	effect, err := d.step("rename", from+" "+to)
	if node := d.names[from]; node == nil {
		return os.ErrNotExist
	} else if effect {
		d.note(change{gone: from, name: to, node: node})
	}
	return err
}

func (d *disk) Remove(name string) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.names[name] == nil {
		return os.ErrNotExist
	}
	effect, err := d.step("remove", name)
	if effect {
		d.note(change{gone: name})
	}
	return err
}

func (d *disk) Sync() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	effect, err := d.step("syncdir", ".")
	if effect {
		d.platter, d.unsynced = maps.Clone(d.names), nil
	}
	return err
}

// handle is an open file of a disk.
type handle struct {
	*disk
	node   *inode
	name   string
	life   int
	closed bool
}

func (h *handle) Close() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.closed = true
	return nil
}

func (h *handle) begin(kind string) (bool, error) {
	if h.closed {
		h.breaks("%s of %s, which is closed", kind, h.name)
	}
	return h.step(kind, h.name)
}

func (h *handle) ReadAt(b []byte, at int64) (int, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if _, err := h.begin("read"); err != nil {
		return 0, err
	}
	if at >= int64(len(h.node.data)) {
		return 0, io.EOF
	}
	n := copy(b, h.node.data[at:])
	if n < len(b) {
		return n, io.EOF
	}
	return n, nil
}

func (h *handle) WriteAt(b []byte, at int64) (int, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	effect, err := h.begin("write")
	if errors.Is(err, errShort) {
		effect, err, b = true, nil, b[:len(b)/2]
	}
	if e := h.claim(h.node, int(at)+len(b)); e != nil && err == nil {
		return 0, e
	}
	if effect && len(b) > 0 {
		n := h.node
		n.data = resized(n.data, max(len(n.data), int(at)+len(b)))
		copy(n.data[at:], b)
		for s := int(at) / sector; s <= (int(at)+len(b)-1)/sector; s++ {
			n.dirty[s] = true
		}
	}
	if err != nil {
		return 0, err
	}
	return len(b), nil
}

func (h *handle) Size() (int64, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return int64(len(h.node.data)), nil
}

func (h *handle) Allocate(size int64) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	effect, err := h.begin("allocate")
	if err == nil {
		err = h.claim(h.node, int(size))
	}
	if effect && (err == nil || errors.Is(err, errCrash)) {
		h.node.data = resized(h.node.data, max(len(h.node.data), int(size)))
	}
	return err
}

func (h *handle) Truncate(size int64) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	effect, err := h.begin("truncate")
	if effect {
		h.node.data = resized(h.node.data, int(size))
	}
	return err
}

func (h *handle) Sync() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.node.failed == h.life {
		h.breaks("sync of %s after a sync or write that failed", h.name)
	}
	effect, err := h.begin("sync")
	n := h.node
	if effect {
		for s := range n.dirty {
			n.flush(s)
		}
		n.platter = resized(n.platter, len(n.data))
		n.dirty = map[int]bool{}
	} else if !errors.Is(err, errCrash) { // nothing of it was written, and nothing ever will be
		n.dirty, n.failed = map[int]bool{}, h.life
	}
	return err
}

// keeper returns what a power failure keeps: nothing, everything, or a random part.
func keeper(variant string, random *rand.Rand) func() bool {
	switch variant {
	case "dropped":
		return func() bool { return false }
	case "kept":
		return func() bool { return true }
	}
	return func() bool { return random.IntN(2) == 0 }
}
