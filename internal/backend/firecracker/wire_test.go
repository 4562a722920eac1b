package firecracker

import (
	"errors"
	"sync/atomic"
	"testing"
)

// A connection that Firecracker closed between two calls costs neither of them.
func TestAConnectionThatEndedIsMadeAgain(t *testing.T) {
	a := serve(t, healthy)
	c, ctx := a.client(), patient(t)
	must(t, c.pause(ctx))
	a.mu.Lock()
	first := a.conns[0]
	a.mu.Unlock()
	must(t, first.Close())
	must(t, c.resume(ctx))
	if got, n := a.got(), a.connections(); len(got) != 2 || n != 2 {
		t.Errorf("%d requests over %d connections, want 2 over 2", len(got), n)
	}
}

// A request that may have been heard is never made twice.
func TestARequestThatMayHaveBeenHeardIsMadeOnce(t *testing.T) {
	a := serve(t, func(s seen) string {
		if s.Path == "/actions" {
			return half // and the connection ends
		}
		return noContent
	})
	c, ctx := a.client(), patient(t)
	must(t, c.pause(ctx))
	if err := c.start(ctx); !errors.Is(err, errClosed) {
		t.Errorf("error %v, want errClosed", err)
	}
	if got := a.got(); len(got) != 2 {
		t.Errorf("%d requests, want one of each call: %v", len(got), got)
	}
}

// A client that is closed during a call answers it, and then leaves no connection.
func TestCloseDuringACall(t *testing.T) {
	var c atomic.Pointer[client]
	a := serve(t, func(seen) string {
		c.Load().close()
		return noContent
	})
	c.Store(a.client())
	must(t, c.Load().pause(patient(t)))
	a.mu.Lock()
	conn := a.conns[0]
	a.mu.Unlock()
	ended := make(chan error, 1)
	go func() {
		_, err := conn.Read(make([]byte, 1))
		ended <- err
	}()
	if err := <-ended; err == nil {
		t.Errorf("error %v, want the end of the connection", err)
	}
}
