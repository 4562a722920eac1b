// Command agent runs inside a lab machine and runs there what the maker of the machine asks for.
package main

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/unkeyed/unkey/go/deploy/metald/test/lab/wire"
)

func main() {
	fmt.Fprintln(os.Stderr, "agent:", run())
	os.Exit(1)
}

// run serves until it cannot any more.
func run() error {
	port, err := open("/dev/virtio-ports/"+wire.PortName, time.Minute)
	if err != nil {
		return err
	}
	boot, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return err
	}
	a := &agent{out: json.NewEncoder(port), groups: map[int]int{}}
	a.send(wire.Reply{Boot: strings.TrimSpace(string(boot))})
	for in := json.NewDecoder(port); ; {
		var req wire.Request
		if err := in.Decode(&req); err != nil {
			return fmt.Errorf("read a request: %w", err)
		}
		a.serve(req)
	}
}

// open waits for the port: its driver and udev may still be at work.
func open(path string, patience time.Duration) (*os.File, error) {
	for deadline := time.Now().Add(patience); ; time.Sleep(20 * time.Millisecond) {
		port, err := os.OpenFile(path, os.O_RDWR, 0)
		if err == nil || time.Now().After(deadline) {
			return port, err
		}
	}
}

type agent struct {
	sending sync.Mutex
	out     *json.Encoder

	mu     sync.Mutex
	groups map[int]int // process groups of the commands that run, by id
}

func (a *agent) send(reply wire.Reply) {
	a.sending.Lock()
	defer a.sending.Unlock()
	if err := a.out.Encode(reply); err != nil {
		fmt.Fprintln(os.Stderr, "agent: send:", err)
	}
}

func (a *agent) serve(req wire.Request) {
	if req.Kill {
		a.kill(req.ID)
		return
	}
	if len(req.Argv) == 0 {
		a.send(wire.Reply{ID: req.ID, Ended: true, Error: "no command"})
		return
	}
	cmd := exec.Command(req.Argv[0], req.Argv[1:]...)
	cmd.Env, cmd.Dir = append(os.Environ(), req.Env...), req.Dir
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	output, err := start(cmd)
	if err != nil {
		a.send(wire.Reply{ID: req.ID, Ended: true, Error: err.Error()})
		return
	}
	a.mu.Lock()
	a.groups[req.ID] = cmd.Process.Pid
	a.mu.Unlock()
	go a.follow(req.ID, cmd, output) // for as long as the machine runs
}

// start starts cmd with one pipe for both outputs. It is no os/exec pipe, as what the command leaves behind may hold it
// open: the command's end is its process's.
func start(cmd *exec.Cmd) (*os.File, error) {
	r, w, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer w.Close()
	cmd.Stdout, cmd.Stderr = w, w
	if err := cmd.Start(); err != nil {
		r.Close()
		return nil, err
	}
	return r, nil
}

func (a *agent) follow(id int, cmd *exec.Cmd, output *os.File) {
	read := make(chan struct{})
	go func() {
		defer close(read)
		buf := make([]byte, 16<<10)
		for {
			n, err := output.Read(buf)
			if n > 0 {
				a.send(wire.Reply{ID: id, Output: buf[:n]})
			}
			if err != nil {
				return
			}
		}
	}()
	_ = cmd.Wait() // its state says how it ended
	a.mu.Lock()
	delete(a.groups, id)
	a.mu.Unlock()
	// What it wrote is in the pipe; a process that it left has no part in it.
	_ = output.SetReadDeadline(time.Now().Add(time.Second))
	<-read
	output.Close()
	a.send(wire.Reply{ID: id, Ended: true, Code: code(cmd.ProcessState)})
}

func code(state *os.ProcessState) int {
	status, ok := state.Sys().(syscall.WaitStatus)
	if ok && status.Signaled() {
		return 128 + int(status.Signal())
	}
	return state.ExitCode()
}

func (a *agent) kill(id int) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if group, ok := a.groups[id]; ok {
		_ = syscall.Kill(-group, syscall.SIGKILL) // it may be ending at this moment
	}
}
