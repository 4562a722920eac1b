package firecracker

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"sync/atomic"
	"time"
)

// callTimeout bounds every call. Firecracker serves one at a time, each to its end, so a call may wait for the one
// before it. One that was given up is carried out nevertheless.
const callTimeout = 5 * time.Second

// maxReply is the most that is read of a reply, in bytes. The longest is the VM's configuration: some kilobytes.
const maxReply = 1 << 20

var (
	errMute   = errors.New("no answer from Firecracker")
	errClosed = errors.New("the connection to Firecracker has ended")
	errReply  = errors.New("a reply of Firecracker that makes no sense")
)

// client talks to the API of one Firecracker over one connection, which it keeps, and which it makes again after it
// broke. Firecracker takes no more than ten connections and serves them one after another. A client's methods may be
// called by any goroutine.
//
// Who makes a call writes the request and reads the reply. The client of net/http has two goroutines per connection for
// that, which wake each other at each of the calls that a running guest costs every 100 ms.
type client struct {
	limit time.Duration // of one call
	dial  func(context.Context) (net.Conn, error)

	turn   chan struct{} // of capacity 1: who has a token in it makes a call
	wire   *wire         // of who makes a call; nil without a connection
	closed atomic.Bool   // no connection is kept
}

// newClient makes a client that connects by dial, at its first call.
func newClient(dial func(context.Context) (net.Conn, error)) *client {
	return &client{limit: callTimeout, dial: dial, turn: make(chan struct{}, 1)}
}

// close ends the connection. Calls that are under way go on to their end.
func (c *client) close() {
	c.closed.Store(true)
	select {
	case c.turn <- struct{}{}:
		c.drop()
		<-c.turn
	default: // who makes a call drops it
	}
}

// begin waits for the turn to make a call.
func (c *client) begin(limited context.Context) error {
	select {
	case c.turn <- struct{}{}:
		return nil
	default:
	}
	select {
	case c.turn <- struct{}{}:
		return nil
	case <-limited.Done():
		return limited.Err()
	}
}

// end gives the turn away. A close that came meanwhile is made up for.
func (c *client) end() {
	<-c.turn
	if c.closed.Load() {
		c.close()
	}
}

func (c *client) drop() {
	if c.wire != nil {
		c.wire.conn.Close()
		c.wire = nil
	}
}

// send makes a call that changes something, and returns nil only if Firecracker said 204. Other errors than a *fault
// wrap errMute, errClosed or errReply.
func (c *client) send(ctx context.Context, cl call) error {
	_, err := c.do(ctx, cl, http.StatusNoContent)
	return err
}

// get returns the body of a call that reads something.
func (c *client) get(ctx context.Context, path string) ([]byte, error) {
	return c.do(ctx, call{Method: http.MethodGet, Path: path}, http.StatusOK)
}

func (c *client) do(ctx context.Context, cl call, want int) ([]byte, error) {
	limited, cancel := context.WithTimeout(ctx, c.limit)
	defer cancel()
	status, body, err := c.exchange(limited, cl)
	switch {
	case err != nil:
		return nil, c.broken(ctx, limited, cl, err)
	case len(body) > maxReply:
		return nil, fmt.Errorf("%s: %w: it has more than %d bytes", cl, errReply, maxReply)
	case status != want:
		return nil, newFault(cl, status, body)
	}
	return body, nil
}

// exchange has its turn at the connection. One that was kept may have ended since: where none of the request can have been
// heard, it is made on another.
func (c *client) exchange(limited context.Context, cl call) (status int, body []byte, err error) {
	if err := c.begin(limited); err != nil {
		return 0, nil, err
	}
	defer c.end()
	kept := c.wire != nil
	status, body, err = c.try(limited, cl)
	if kept && errors.Is(err, errUnheard) {
		status, body, err = c.try(limited, cl)
	}
	return status, body, err
}

// try makes a call, and keeps the connection where it is at its end.
func (c *client) try(limited context.Context, cl call) (status int, body []byte, err error) {
	if c.wire == nil {
		conn, err := c.dial(limited)
		if err != nil {
			return 0, nil, err
		}
		c.wire = newWire(conn)
	}
	status, body, keep, err := c.wire.exchange(limited, cl)
	if err != nil || !keep {
		c.drop()
	}
	return status, body, err
}

// broken says why there is no whole reply: nobody waits any more, it took too long, or the connection ended.
func (c *client) broken(ctx, limited context.Context, cl call, err error) error {
	switch {
	case ctx.Err() != nil:
		return fmt.Errorf("%s: %w: %w", cl, errMute, context.Cause(ctx))
	case limited.Err() != nil:
		return fmt.Errorf("%s: %w within %s", cl, errMute, c.limit)
	}
	return fmt.Errorf("%s: %w: %w", cl, errClosed, err)
}
