package qemu

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"
)

// qmpTimeout bounds every exchange with a monitor: a QEMU that is stopped accepts connections and never answers.
const qmpTimeout = 5 * time.Second

// maxUnanswered is how many commands may wait for a reply that nobody waits for any more. A QEMU that owes more is
// asked nothing, so that its socket can never fill up in the middle of a command.
const maxUnanswered = 16

// errMute says that QEMU is there and doesn't answer.
var errMute = errors.New("QEMU does not answer")

// errClosed says that the monitor's connection has ended.
var errClosed = errors.New("the connection to QEMU's monitor has ended")

// client is the connection to the control monitor. Commands may be sent by any goroutine; one goroutine runs read.
type client struct {
	conn    *net.UnixConn
	in      *decoder
	version string                         // of QEMU, from the greeting
	onEvent func(name string, data []byte) // called by read; must not block

	mu         sync.Mutex // guards everything below, and writing
	lastID     uint64
	waiting    map[uint64]chan *message
	unanswered int   // commands whose caller gave up
	ended      error // why nothing can be asked any more
}

// greet takes over a new connection to a monitor: it reads the greeting and ends the negotiation. A monitor has one
// client: a second one hears nothing until the first leaves. After an error the connection is closed.
func greet(ctx context.Context, conn *net.UnixConn, onEvent func(string, []byte)) (*client, error) {
	c := &client{conn: conn, in: newDecoder(conn), onEvent: onEvent}
	if err := c.negotiate(ctx); err != nil {
		conn.Close()
		return nil, err
	}
	return c, nil
}

// negotiate reads the greeting and leaves negotiation mode.
func (c *client) negotiate(ctx context.Context) error {
	defer bound(ctx, c.conn, qmpTimeout)()
	m, err := c.in.next()
	if err != nil {
		return mute(ctx, "its greeting", err)
	}
	if m.Greeting == nil {
		return fmt.Errorf("%w: no greeting", errNotQMP)
	}
	c.version = m.Greeting.version()
	_, err = c.exchange(ctx, "qmp_capabilities", nil)
	return err
}

// exchange sends a command and reads until its reply, for a connection that nobody else reads.
func (c *client) exchange(ctx context.Context, name string, args any) (json.RawMessage, error) {
	c.mu.Lock()
	c.lastID++
	id := c.lastID
	_, err := c.conn.Write(command{Execute: name, Arguments: args, ID: id}.encode())
	c.mu.Unlock()
	if err != nil {
		return nil, mute(ctx, name, err)
	}
	for {
		m, err := c.in.next()
		switch {
		case err != nil:
			return nil, mute(ctx, name, err)
		case m.Event != "":
			c.event(m)
		case m.isReply() && m.ID != nil && *m.ID == id:
			return m.result()
		case m.isReply() && m.ID != nil: // to what an event had been answered with
			c.reply(m)
		}
	}
}

func (c *client) event(m *message) {
	if c.onEvent != nil {
		c.onEvent(m.Event, m.Data)
	}
}

// result is what a reply says: a value, or QEMU's refusal.
func (m *message) result() (json.RawMessage, error) {
	if m.Error != nil {
		return nil, m.Error
	}
	return m.Return, nil
}

// read hands out replies and events until the connection ends, and returns why it ended.
func (c *client) read() error {
	for {
		m, err := c.in.next()
		if err != nil {
			c.end(err)
			return err
		}
		switch {
		case m.Event != "":
			c.event(m)
		case m.ID != nil:
			c.reply(m)
		}
	}
}

// reply hands m to whoever waits for it.
func (c *client) reply(m *message) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if ch, ok := c.waiting[*m.ID]; ok {
		delete(c.waiting, *m.ID)
		ch <- m
		return
	}
	c.unanswered = max(0, c.unanswered-1)
}

// end fails every command that waits, and all that follow.
func (c *client) end(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.ended == nil {
		c.ended = fmt.Errorf("%w: %w", errClosed, err)
	}
	for id, ch := range c.waiting {
		delete(c.waiting, id)
		close(ch)
	}
	c.conn.Close()
}

// do sends a command and waits for its reply: at most qmpTimeout, and no longer than ctx. It needs read to run.
// The error is a *CommandError, or wraps errClosed, errMute or ctx's error.
func (c *client) do(ctx context.Context, name string, args any) (json.RawMessage, error) {
	id, ch, err := c.send(name, args)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	timer := time.NewTimer(qmpTimeout)
	defer timer.Stop()
	select {
	case m, ok := <-ch:
		if !ok {
			return nil, fmt.Errorf("%s: %w", name, c.why())
		}
		return m.result()
	case <-timer.C:
		c.abandon(id)
		return nil, fmt.Errorf("%s: %w within %s", name, errMute, qmpTimeout)
	case <-ctx.Done():
		c.abandon(id)
		return nil, fmt.Errorf("%s: %w: %w", name, errMute, context.Cause(ctx))
	}
}

// send writes a whole command or ends the connection: half a command would swallow the next one.
func (c *client) send(name string, args any) (uint64, chan *message, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.ended != nil {
		return 0, nil, c.ended
	}
	if c.unanswered >= maxUnanswered {
		return 0, nil, fmt.Errorf("%w: it owes %d replies", errMute, c.unanswered)
	}
	c.lastID++
	if c.waiting == nil {
		c.waiting = map[uint64]chan *message{}
	}
	ch := make(chan *message, 1)
	c.waiting[c.lastID] = ch
	c.conn.SetWriteDeadline(time.Now().Add(qmpTimeout))
	if _, err := c.conn.Write(command{Execute: name, Arguments: args, ID: c.lastID}.encode()); err != nil {
		delete(c.waiting, c.lastID)
		c.ended = fmt.Errorf("%w: %w", errClosed, err)
		c.conn.CloseWrite() // read still has what QEMU said last
		return 0, nil, c.ended
	}
	return c.lastID, ch, nil
}

// abandon gives up waiting for a reply.
func (c *client) abandon(id uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if _, ok := c.waiting[id]; ok {
		delete(c.waiting, id)
		c.unanswered++
	}
}

func (c *client) why() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.ended
}

// close ends the connection; read returns.
func (c *client) close() { c.conn.Close() }

// bound bounds the I/O on conn by limit and by ctx, until the function it returns is called.
func bound(ctx context.Context, conn net.Conn, limit time.Duration) (lift func()) {
	at := time.Now().Add(limit)
	if d, ok := ctx.Deadline(); ok && d.Before(at) {
		at = d
	}
	conn.SetDeadline(at)
	stop := context.AfterFunc(ctx, func() { conn.SetDeadline(time.Unix(1, 0)) })
	return func() {
		if stop() {
			conn.SetDeadline(time.Time{})
		}
	}
}

// mute turns a time-out of the connection into errMute, and says what was waited for.
func mute(ctx context.Context, what string, err error) error {
	var timeout net.Error
	switch {
	case ctx.Err() != nil:
		return fmt.Errorf("%s: %w: %w", what, errMute, context.Cause(ctx))
	case errors.As(err, &timeout) && timeout.Timeout():
		return fmt.Errorf("%s: %w", what, errMute)
	case errors.Is(err, errNotQMP):
		return fmt.Errorf("%s: %w", what, err)
	}
	return fmt.Errorf("%s: %w: %w", what, errClosed, err)
}
