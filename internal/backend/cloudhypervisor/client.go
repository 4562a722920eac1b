package cloudhypervisor

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"slices"
	"time"
)

const (
	// callTimeout bounds every call but those that build or take down a guest. One thread serves all calls, each to its
	// end, so even a ping waits for the call before it. A call that was given up is carried out nevertheless.
	callTimeout = 5 * time.Second
	// slowTimeout bounds the calls that take as long as the guest is big: vm.boot maps its memory, and vm.shutdown and
	// vm.delete give it back.
	slowTimeout = 30 * time.Second
)

// maxReply is the most that is read of a reply, in bytes. The longest is vm.info with its tree of devices.
const maxReply = 1 << 20

// maxHeader is the most that the headers of a reply may have, in bytes.
const maxHeader = 16 << 10

// maxRequest is the most that can be sent, in bytes: the HTTP server of 53.0 closes the connection on a longer body.
const maxRequest = 51200

var (
	errMute    = errors.New("no answer from Cloud Hypervisor")
	errClosed  = errors.New("the connection to Cloud Hypervisor has ended")
	errReply   = errors.New("a reply of Cloud Hypervisor that makes no sense")
	errTooLong = errors.New("a request that is too long for Cloud Hypervisor")
)

// client talks to the API of one Cloud Hypervisor over one connection, which it keeps, and which it makes again after it
// broke. There is one request at a time: the server takes ten connections and serves them one after another. A client's
// methods may be called by any goroutine.
type client struct {
	limit     time.Duration // of one call
	slowLimit time.Duration // of one call that builds or takes down a guest
	dial      func(context.Context) (net.Conn, error)
	http      *http.Client
}

// newClient makes a client that connects by dial, at its first call.
func newClient(dial func(context.Context) (net.Conn, error)) *client {
	transport := &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return dial(ctx)
		},
		MaxConnsPerHost:        1,
		MaxIdleConnsPerHost:    1,
		MaxResponseHeaderBytes: maxHeader,
		DisableCompression:     true,
	}
	return &client{limit: callTimeout, slowLimit: slowTimeout, dial: dial, http: &http.Client{
		Transport:     transport,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}
}

// close ends the connection. Calls that are under way go on to their end.
func (c *client) close() { c.http.CloseIdleConnections() }

// do makes a call and returns the body of the reply. It is nil only if Cloud Hypervisor answered with one of the call's
// statuses. Other errors than a *fault wrap errMute, errClosed, errReply or errTooLong.
func (c *client) do(ctx context.Context, cl call) ([]byte, error) {
	if len(cl.Body) > maxRequest {
		return nil, fmt.Errorf("%s: %w: %d bytes, and it takes %d", cl, errTooLong, len(cl.Body), maxRequest)
	}
	limited, cancel := context.WithTimeout(ctx, c.limitOf(cl))
	defer cancel()
	// A bytes.Reader has a length: the server knows no chunked bodies. An empty one makes Content-Length: 0, which is
	// what a call without a body wants: any body is refused there.
	req, err := http.NewRequestWithContext(limited, cl.Method, "http://localhost"+root+cl.Path, bytes.NewReader(cl.Body))
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
	return c.read(ctx, limited, cl, resp)
}

// read takes in the reply to a call.
func (c *client) read(ctx, limited context.Context, cl call, resp *http.Response) ([]byte, error) {
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxReply+1))
	switch {
	case err != nil:
		return nil, c.broken(ctx, limited, cl, err)
	case len(body) > maxReply:
		return nil, fmt.Errorf("%s: %w: it has more than %d bytes", cl, errReply, maxReply)
	case !slices.Contains(cl.OK, resp.StatusCode):
		return nil, newFault(cl, resp.StatusCode, body)
	}
	return body, nil
}

func (c *client) limitOf(cl call) time.Duration {
	if cl.Slow {
		return c.slowLimit
	}
	return c.limit
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
		return fmt.Errorf("%s: %w within %s", cl, errMute, c.limitOf(cl))
	}
	return fmt.Errorf("%s: %w: %w", cl, errClosed, err)
}
