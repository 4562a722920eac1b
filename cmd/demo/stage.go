package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"syscall"
	"time"
)

// stage is a metald of the demo's own: a free port, a directory of its own, ended by pid.
type stage struct {
	client  client
	dir     string
	process *exec.Cmd
	ended   chan struct{} // closed when metald has ended
	log     bytes.Buffer  // read only after ended is closed
}

// build starts metald and waits until it is ready.
func build(ctx context.Context, binary, assets string) (*stage, error) {
	dir, err := os.MkdirTemp("", "metald-demo-")
	if err != nil {
		return nil, err
	}
	port, err := freePort()
	if err != nil {
		return nil, errors.Join(err, os.RemoveAll(dir))
	}
	s := &stage{
		client: client{base: "http://127.0.0.1:" + strconv.Itoa(port), http: &http.Client{}},
		dir:    dir,
		ended:  make(chan struct{}),
	}
	// Not CommandContext: Ctrl-C must leave metald alive until its VM is gone.
	s.process = exec.Command(binary)
	s.process.Env = []string{
		"PATH=" + os.Getenv("PATH"),
		"UNKEY_METALD_PORT=" + strconv.Itoa(port),
		"UNKEY_METALD_STATE_DIR=" + filepath.Join(dir, "state"),
		"UNKEY_METALD_ASSETS_DIR=" + assets,
	}
	s.process.Stdout, s.process.Stderr = &s.log, &s.log
	s.process.SysProcAttr = &syscall.SysProcAttr{Setsid: true} // a terminal's Ctrl-C is for the demo alone
	if err := s.process.Start(); err != nil {
		return nil, errors.Join(err, os.RemoveAll(dir))
	}
	go func() {
		_ = s.process.Wait() // how it ended shows in its log
		close(s.ended)
	}()
	if err := s.awaitReady(ctx); err != nil {
		return nil, errors.Join(err, s.strike(true))
	}
	return s, nil
}

func (s *stage) awaitReady(ctx context.Context) error {
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		err := s.client.ready(ctx)
		if err == nil {
			return nil
		}
		select {
		case <-s.ended:
			return errors.New("metald ended before it was ready")
		case <-ctx.Done():
			return fmt.Errorf("metald is not ready: %w", err)
		case <-tick.C:
		}
	}
}

// strike ends metald and removes its directory. With tell, the error carries metald's log.
func (s *stage) strike(tell bool) error {
	_ = s.process.Process.Signal(syscall.SIGTERM) // it may have ended already
	var late error
	select {
	case <-s.ended:
	case <-time.After(20 * time.Second):
		late = errors.Join(errors.New("metald did not end when it was asked to and was killed"), s.process.Process.Kill())
		<-s.ended
	}
	if late == nil && s.process.ProcessState.ExitCode() != 0 {
		late = fmt.Errorf("metald: %s", s.process.ProcessState)
	}
	if tell || late != nil {
		late = errors.Join(late, fmt.Errorf("metald said:\n%s", s.log.Bytes()))
	}
	return errors.Join(late, os.RemoveAll(s.dir))
}

func freePort() (int, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return 0, err
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port, nil
}
