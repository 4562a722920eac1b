package api

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"time"
)

// Bounds of a connection. There is no deadline for a whole request or response: see call.
const (
	maxHeaderBytes  = 64 << 10
	maxH2Streams    = 250
	abandonedPeriod = 5 * time.Second // how long calls that were cancelled may take to return
	answerPeriod    = 2 * time.Second // how long their answers may take to be sent
)

// Run serves on ln, which it closes, until ctx ends. Then it stops taking connections, ends the streams, and waits
// for running calls up to the drain timeout before it cancels them. It returns once no call is running.
func (a *API) Run(ctx context.Context, ln net.Listener) error {
	a.hosts.addBound(ln.Addr())
	calls, cancelCalls := context.WithCancelCause(context.WithoutCancel(ctx))
	defer cancelCalls(nil)
	server := a.server(calls)

	served := make(chan error, 1)
	go func() { served <- server.Serve(limitConnections(ln, a.cfg.MaxConnections)) }()
	select {
	case err := <-served:
		a.beginStop()
		return fmt.Errorf("serve the API on %s: %w", ln.Addr(), err)
	case <-ctx.Done():
	}
	a.beginStop()
	err := a.stop(server, func() { cancelCalls(errDraining) })
	if serveErr := <-served; !errors.Is(serveErr, http.ErrServerClosed) {
		err = errors.Join(err, serveErr)
	}
	return err
}

func (a *API) server(calls context.Context) *http.Server {
	protocols := new(http.Protocols)
	protocols.SetHTTP1(true)
	protocols.SetUnencryptedHTTP2(true)
	return &http.Server{
		Handler:           a,
		Protocols:         protocols,
		HTTP2:             &http.HTTP2Config{MaxConcurrentStreams: maxH2Streams, WriteByteTimeout: a.cfg.timeouts.write},
		ReadHeaderTimeout: a.cfg.timeouts.header,
		IdleTimeout:       a.cfg.timeouts.idle,
		MaxHeaderBytes:    maxHeaderBytes,
		BaseContext:       func(net.Listener) context.Context { return calls },
		ErrorLog:          slog.NewLogLogger(a.cfg.Log.Handler(), slog.LevelWarn),
	}
}

// stop ends server. Calls that outlast the drain timeout are cancelled, and get a moment to return and to have their
// answers sent.
func (a *API) stop(server *http.Server, cancelCalls func()) error {
	err := shutdown(server, a.cfg.DrainTimeout)
	if errors.Is(err, context.DeadlineExceeded) {
		a.cfg.Log.Warn("calls outlast the drain timeout and are cancelled", "timeout", a.cfg.DrainTimeout)
		err = nil
	}
	cancelCalls()
	left := a.running.close(abandonedPeriod)
	if left == 0 {
		_ = shutdown(server, answerPeriod) // Close ends what it could not
	}
	if closeErr := server.Close(); err == nil {
		err = closeErr
	}
	if left > 0 {
		err = errors.Join(err, fmt.Errorf("%d calls did not return", left))
	}
	return err
}

func shutdown(server *http.Server, timeout time.Duration) error {
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	return server.Shutdown(ctx)
}
