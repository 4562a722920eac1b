package firecracker

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"syscall"
	"time"
)

// maxHeader is the most that the headers of a reply may have, in bytes.
const maxHeader = 16 << 10

// wireBuffer is enough for an ordinary reply in one read.
const wireBuffer = 1 << 10

// errUnheard is of a request of which the other end has read nothing, because it had closed the connection before.
var errUnheard = errors.New("the connection was closed meanwhile")

// wire is a connection to Firecracker's API. It belongs to who makes a call.
type wire struct {
	conn    net.Conn
	limited io.LimitedReader // of conn, so that no reply is longer than can be
	lines   *bufio.Reader    // of limited
	request bytes.Buffer
}

func newWire(conn net.Conn) *wire {
	w := &wire{conn: conn, limited: io.LimitedReader{R: conn}}
	w.lines = bufio.NewReaderSize(&w.limited, wireBuffer)
	return w
}

// exchange makes a call. Of a body that is longer than maxReply more than that is returned, and not all. Without keep the
// connection cannot be used again.
func (w *wire) exchange(ctx context.Context, cl call) (status int, body []byte, keep bool, err error) {
	stop := context.AfterFunc(ctx, func() { _ = w.conn.SetDeadline(time.Unix(1, 0)) })
	defer func() { keep = stop() && keep }() // or the deadline would be the next call's
	req, err := w.send(ctx, cl)
	if err != nil {
		return 0, nil, false, err
	}
	resp, err := w.receive(req)
	if err != nil {
		return 0, nil, false, err
	}
	w.limited.N = maxReply + 1
	body, err = io.ReadAll(io.LimitReader(resp.Body, maxReply+1))
	if err != nil {
		return 0, nil, false, err
	}
	// What comes unasked would be taken for the reply to the next call.
	keep = !resp.Close && len(body) <= maxReply && w.lines.Buffered() == 0
	return resp.StatusCode, body, keep, nil
}

// send writes a request, in one piece. It has a length: Firecracker knows no chunked bodies and takes one for an empty body.
func (w *wire) send(ctx context.Context, cl call) (*http.Request, error) {
	req, err := http.NewRequestWithContext(ctx, cl.Method, "http://localhost"+cl.Path, bytes.NewReader(cl.Body))
	if err != nil {
		return nil, err
	}
	if len(cl.Body) > 0 {
		req.Header.Set("Content-Type", "application/json")
	}
	w.request.Reset()
	if err := req.Write(&w.request); err != nil {
		return nil, err
	}
	if n, err := w.conn.Write(w.request.Bytes()); err != nil {
		if n == 0 && (errors.Is(err, syscall.EPIPE) || errors.Is(err, syscall.ECONNRESET)) {
			err = fmt.Errorf("%w: %w", errUnheard, err)
		}
		return nil, err
	}
	return req, nil
}

// receive reads the head of the reply to req.
func (w *wire) receive(req *http.Request) (*http.Response, error) {
	w.limited.N = maxHeader
	resp, err := http.ReadResponse(w.lines, req)
	if err == nil && resp.StatusCode < http.StatusOK {
		err = fmt.Errorf("status %d, which ends no call", resp.StatusCode)
	}
	return resp, err
}
