package lab

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"net"
	"sync"
	"time"

	"github.com/unkeyed/unkey/go/deploy/metald/test/lab/wire"
)

// killPatience is how long a killed command may take to end.
const killPatience = 10 * time.Second

// link is the connection to the agent of one boot.
type link struct {
	conn   net.Conn
	booted chan struct{} // closed when boot is set
	boot   string
	over   chan struct{} // closed when nothing more comes

	sending sync.Mutex // requests are sent whole

	mu       sync.Mutex
	last     int
	commands map[int]*call
}

// call is a command that somebody waits for, until done is closed.
type call struct {
	replies chan wire.Reply
	done    chan struct{}
}

func newLink(conn net.Conn) *link {
	l := &link{conn: conn, booted: make(chan struct{}), over: make(chan struct{}), commands: map[int]*call{}}
	go l.read() // close waits for it
	return l
}

func (l *link) close() {
	l.conn.Close()
	<-l.over
}

func (l *link) awaitBoot(ctx context.Context) error {
	select {
	case <-l.booted:
		return nil
	case <-l.over:
		return ErrOff
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// read hands out what the agent says, until the connection ends. An agent that starts again knows of no command.
func (l *link) read() {
	defer close(l.over)
	for in := json.NewDecoder(bufio.NewReader(l.conn)); ; {
		var reply wire.Reply
		if err := in.Decode(&reply); err != nil || reply.Boot != "" && l.boot != "" {
			return
		}
		if reply.Boot != "" {
			l.boot = reply.Boot
			close(l.booted)
			continue
		}
		l.mu.Lock()
		to := l.commands[reply.ID]
		l.mu.Unlock()
		if to == nil {
			continue // nobody waits for it any more
		}
		select {
		case to.replies <- reply:
		case <-to.done:
		}
	}
}

func (l *link) run(ctx context.Context, c Command) (int, error) {
	id, call := l.register()
	defer l.forget(id, call)
	if err := l.send(wire.Request{ID: id, Argv: c.Argv, Env: c.Env, Dir: c.Dir}); err != nil {
		return 0, err
	}
	canceled, tooLate := ctx.Done(), (<-chan time.Time)(nil)
	for {
		select {
		case reply := <-call.replies:
			if c.Output != nil && len(reply.Output) > 0 {
				if _, err := c.Output.Write(reply.Output); err != nil {
					return 0, err
				}
			}
			if reply.Ended {
				return ended(ctx, c, reply)
			}
		case <-canceled:
			if err := l.send(wire.Request{ID: id, Kill: true}); err != nil {
				return 0, err
			}
			canceled, tooLate = nil, time.After(killPatience)
		case <-tooLate:
			return 0, fmt.Errorf("%q does not end in the lab: %w", c.Argv, context.Cause(ctx))
		case <-l.over:
			return 0, ErrOff
		}
	}
}

func ended(ctx context.Context, c Command, reply wire.Reply) (int, error) {
	if reply.Error != "" {
		return 0, fmt.Errorf("run %q in the lab: %s", c.Argv, reply.Error)
	}
	return reply.Code, context.Cause(ctx)
}

func (l *link) register() (int, *call) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.last++
	c := &call{replies: make(chan wire.Reply), done: make(chan struct{})}
	l.commands[l.last] = c
	return l.last, c
}

func (l *link) forget(id int, c *call) {
	close(c.done)
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.commands, id)
}

// send sends a request. The agent always reads, so this does not take long.
func (l *link) send(req wire.Request) error {
	l.sending.Lock()
	defer l.sending.Unlock()
	if err := json.NewEncoder(l.conn).Encode(req); err != nil {
		return fmt.Errorf("%w: %w", ErrOff, err)
	}
	return nil
}
