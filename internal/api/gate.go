package api

import (
	"sync"
	"time"
)

// gate counts the calls that are running, lets no more in once it is closed, and waits for those inside.
type gate struct {
	mu     sync.Mutex
	inside int
	closed bool
	empty  chan struct{} // closed once the gate is and nobody is inside
}

func newGate() *gate { return &gate{empty: make(chan struct{})} }

func (g *gate) enter() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.closed {
		return false
	}
	g.inside++
	return true
}

func (g *gate) leave() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.inside--
	if g.closed && g.inside == 0 {
		close(g.empty)
	}
}

// close closes the gate and waits up to timeout; it returns how many are still inside. It is called once.
func (g *gate) close(timeout time.Duration) int {
	g.mu.Lock()
	g.closed = true
	if g.inside == 0 {
		close(g.empty)
	}
	g.mu.Unlock()
	timer := time.NewTimer(timeout)
	defer timer.Stop()
	select {
	case <-g.empty:
	case <-timer.C:
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.inside
}
