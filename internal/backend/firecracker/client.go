package firecracker

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
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
type client struct {
	limit time.Duration // of one call
	http  *http.Client
}

// newClient makes a client that connects by dial, at its first call.
func newClient(dial func(context.Context) (net.Conn, error)) *client {
	transport := &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return dial(ctx)
		},
		MaxConnsPerHost:        1,
		MaxIdleConnsPerHost:    1,
		MaxResponseHeaderBytes: 16 << 10,
		DisableCompression:     true,
	}
	return &client{limit: callTimeout, http: &http.Client{
		Transport:     transport,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}
}

// close ends the connection. Calls that are under way go on to their end.
func (c *client) close() { c.http.CloseIdleConnections() }

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
	// A bytes.Reader has a length: Firecracker knows no chunked bodies and takes one for an empty body.
	req, err := http.NewRequestWithContext(limited, cl.Method, "http://localhost"+cl.Path, bytes.NewReader(cl.Body))
	if err != nil {
		return nil, err
	}
	if len(cl.Body) > 0 {
		req.Header.Set("Content-Type", "application/json")
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return nil, c.broken(ctx, limited, cl, err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxReply+1))
	switch {
	case err != nil:
		return nil, c.broken(ctx, limited, cl, err)
	case len(body) > maxReply:
		return nil, fmt.Errorf("%s: %w: it has more than %d bytes", cl, errReply, maxReply)
	case resp.StatusCode != want:
		return nil, newFault(cl, resp.StatusCode, body)
	}
	return body, nil
}

// broken says why there is no whole reply: nobody waits any more, it took too long, or the connection ended.
func (c *client) broken(ctx, limited context.Context, cl call, err error) error {
	var inURL *url.Error
	if errors.As(err, &inURL) {
		err = inURL.Err // it names a URL that nobody asked for
	}
	switch {
	case ctx.Err() != nil:
		return fmt.Errorf("%s: %w: %w", cl, errMute, context.Cause(ctx))
	case limited.Err() != nil:
		return fmt.Errorf("%s: %w within %s", cl, errMute, c.limit)
	}
	return fmt.Errorf("%s: %w: %w", cl, errClosed, err)
}
