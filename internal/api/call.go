package api

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"time"

	"connectrpc.com/connect"
)

// timeouts bound how long a client may take.
type timeouts struct {
	header time.Duration // to send the header of a request
	body   time.Duration // to send its body
	write  time.Duration // to take an answer, or a message of a stream
	idle   time.Duration // between requests
}

func defaultTimeouts() timeouts {
	return timeouts{header: 5 * time.Second, body: 30 * time.Second, write: 30 * time.Second, idle: 2 * time.Minute}
}

// call is one HTTP request on its way: the writer and the body that the handlers are given, with a deadline on each,
// and what became of it.
//
// The deadlines are set per request because those of http.Server would end a ShutdownVm that waits for its guest, and
// a console that is followed for hours.
type call struct {
	http.ResponseWriter
	control *http.ResponseController
	body    io.ReadCloser
	limits  *timeouts

	started time.Time
	status  int  // of the response, 0 before it began
	reading bool // the read deadline was set
	writing bool // the write deadline is set
	rpc     bool // it is for the service

	// Left by the interceptor when an RPC failed:
	err  error
	code connect.Code
	vmID string
}

type callKey struct{}

// callOf returns the call that ctx belongs to; nil outside of the edge.
func callOf(ctx context.Context) *call {
	c, _ := ctx.Value(callKey{}).(*call)
	return c
}

// newCall puts itself between the server and the handlers of r.
func newCall(w http.ResponseWriter, r *http.Request, limits *timeouts) (*call, *http.Request) {
	c := &call{ResponseWriter: w, control: http.NewResponseController(w), limits: limits, started: time.Now()}
	r = r.WithContext(context.WithValue(r.Context(), callKey{}, c))
	if r.Body != nil && r.Body != http.NoBody {
		c.body = http.MaxBytesReader(w, r.Body, maxBodyBytes)
		r.Body = callBody{c}
	}
	return c, r
}

// Unwrap gives the writer below to http.ResponseController.
func (c *call) Unwrap() http.ResponseWriter { return c.ResponseWriter }

// WriteHeader starts the response.
func (c *call) WriteHeader(status int) {
	if c.status == 0 {
		c.begin(status)
	}
	c.ResponseWriter.WriteHeader(status)
	if status == http.StatusUnsupportedMediaType {
		// connect says nothing in such an answer; whoever forgot the header in a curl line should be told.
		_, _ = io.WriteString(c.ResponseWriter, "unsupported content type: send JSON with the header Content-Type: application/json\n")
	}
}

// Write writes to the client, which has a bounded time to take it.
func (c *call) Write(p []byte) (int, error) {
	if c.status == 0 {
		c.begin(http.StatusOK)
	}
	c.arm()
	return c.ResponseWriter.Write(p)
}

func (c *call) begin(status int) {
	c.status = status
	if status == http.StatusUnsupportedMediaType {
		c.Header().Set("Content-Type", "text/plain; charset=utf-8")
	}
	c.arm()
}

// arm sets the write deadline unless it is set.
func (c *call) arm() {
	if !c.writing {
		c.writing = true
		_ = c.control.SetWriteDeadline(time.Now().Add(c.limits.write)) // no deadline where the writer has none
	}
}

// Flush sends what was written. Streams flush after each message, so each message has the whole time, and a stream
// that has nothing to say none to lose.
func (c *call) Flush() {
	c.arm()
	_ = c.control.Flush()
	c.writing = false
	_ = c.control.SetWriteDeadline(time.Time{})
}

// callBody is a request's body that has a bounded time to come in, as a whole.
type callBody struct{ call *call }

// Read reads the body. The server clears the deadline itself once the body has ended.
func (b callBody) Read(p []byte) (int, error) {
	c := b.call
	if !c.reading {
		c.reading = true
		_ = c.control.SetReadDeadline(time.Now().Add(c.limits.body))
	}
	n, err := c.body.Read(p)
	if errors.Is(err, os.ErrDeadlineExceeded) {
		// The client is told this, instead of the addresses and words of package net.
		err = fmt.Errorf("the body of the request did not come within %v: %w", c.limits.body, os.ErrDeadlineExceeded)
	}
	return n, err
}

// Close closes the body.
func (b callBody) Close() error { return b.call.body.Close() }
