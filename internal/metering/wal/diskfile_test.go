package wal

import (
	"errors"
	"io"
)

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
