package cloudhypervisor

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/unkeyed/unkey/go/deploy/metald/internal/backend/stubvmm/rust"
)

// The codes with which Cloud Hypervisor ends.
const (
	exitOK        = 0
	exitError     = 1
	exitArguments = 2
)

// Main runs the stand-in with the arguments behind its name, and returns its exit code.
func Main(args []string, stdout, stderr io.Writer) int {
	began := time.Now()
	k, err := readKnobs()
	if err != nil {
		fmt.Fprintln(stderr, err)
		return exitError
	}
	a, err := parseArguments(args)
	var bad usageError
	switch {
	case len(args) == 0:
		fmt.Fprintln(stderr, "Launch a cloud-hypervisor VMM."+usage)
		return exitArguments
	case errors.As(err, &bad):
		fmt.Fprintln(stderr, err)
		return exitArguments
	case err != nil:
		fmt.Fprintln(stderr, err)
		return exitError
	case a.version:
		build, _ := k.versions()
		fmt.Fprintf(stdout, "cloud-hypervisor %s\nMigration Protocol Versions: 0\n", build)
		return exitOK
	case a.help:
		fmt.Fprintln(stdout, "Launch a cloud-hypervisor VMM."+usage)
		return exitOK
	}
	p := &process{args: a, knobs: k, stderr: stderr, began: began}
	if err := p.run(); err != nil {
		chain(stderr, err)
		return exitError
	}
	return p.exit
}

// chain says an error as Cloud Hypervisor does at its end.
func chain(w io.Writer, err error) {
	var f *fault
	if !errors.As(err, &f) {
		fmt.Fprintln(w, err)
		return
	}
	if len(f.chain) == 1 {
		fmt.Fprintf(w, "Error: Cloud Hypervisor exited with the following error:\n  %s\n", f.chain[0])
		return
	}
	fmt.Fprintln(w, "Error: Cloud Hypervisor exited with the following chain of errors:")
	for i, line := range f.chain {
		fmt.Fprintf(w, "  %d: %s\n", i, line)
	}
}

type process struct {
	args   *arguments
	knobs  knobs
	stderr io.Writer
	began  time.Time
	exit   int
}

func (p *process) run() error {
	unix.Umask(0o077)
	l := &logger{began: p.began, most: level(min(1+p.args.verbose, int(levelDebug))), out: os.Stderr}
	if p.args.has("log-file") {
		f, err := os.Create(p.args.values["log-file"])
		if err != nil {
			return causedBy(err, "Error creating log file")
		}
		l.out = f
	}
	v := newVMM(p.knobs, l)
	v.noShutdown = p.args.has("no-shutdown")
	v.strict = p.args.values["seccomp"] == "" || p.args.values["seccomp"] == "true"
	if err := p.monitor(v); err != nil {
		return err
	}
	v.signals()
	v.events.say("vmm", "starting", nil)
	if code, ended := v.misbehave(p.stderr); ended {
		p.exit = code
		return nil
	}
	clean, err := p.serve(v)
	if err != nil {
		return err
	}
	if p.args.has("kernel") {
		if err := v.direct(p.args); err != nil {
			clean()
			return err
		}
	}
	code := <-v.over
	clean()
	if code != exitOK {
		return says("Failed to join on VMM thread: Any { .. }")
	}
	return nil
}

// monitor opens what the events go to.
func (p *process) monitor(v *vmm) error {
	config, ok := p.args.values["event-monitor"]
	if !ok {
		return nil
	}
	name, value, _ := strings.Cut(config, "=")
	switch name {
	case "fd":
		fd, err := strconv.Atoi(value)
		if err != nil {
			return says("Error parsing --event-monitor", fmt.Sprintf("value \"%s\" for option \"fd\" is not valid", value))
		}
		return v.events.open(fd)
	case "path":
		fd, err := unix.Open(value, unix.O_WRONLY|unix.O_CREAT|unix.O_TRUNC|unix.O_CLOEXEC, 0o666)
		if err != nil {
			return causedBy(err, "Error doing event monitor I/O")
		}
		return v.events.open(fd)
	}
	return says("Error parsing --event-monitor", "unknown option: "+name)
}

// serve begins to serve the API, if there is a socket for it. Clean takes away what was made.
func (p *process) serve(v *vmm) (clean func(), err error) {
	config, ok := p.args.values["api-socket"]
	if !ok {
		return func() {}, nil
	}
	text, isFD := strings.CutPrefix(config, "fd=")
	path := strings.TrimPrefix(config, "path=")
	fd := -1
	if isFD {
		path = ""
		if fd, err = strconv.Atoi(text); err != nil {
			return nil, says("Error parsing --api-socket", "invalid digit found in string")
		}
		if _, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0); err != nil {
			killedBy(unix.SIGSYS) // its thread panics, and has no leave for what a panic does
		}
	} else if fd, err = listen(path, v.knobs.Version >= 53); err != nil {
		return nil, err
	}
	s := &server{vmm: v, socket: fd}
	go s.run()
	return func() {
		s.flush()
		if path != "" {
			_ = os.Remove(path)
		}
	}, nil
}

// listen makes the socket. From version 53 on it belongs to who has the lock in the file beside it.
func listen(path string, locked bool) (int, error) {
	const thread, socket = "Failed to start the VMM thread", "Error creation API server's socket"
	if locked {
		lock, err := unix.Open(path+".lock", unix.O_WRONLY|unix.O_CREAT|unix.O_CLOEXEC, 0o666)
		if err != nil {
			return -1, causedBy(err, thread, socket)
		}
		whole := unix.Flock_t{Type: unix.F_WRLCK}
		if err := unix.FcntlFlock(uintptr(lock), unix.F_OFD_SETLK, &whole); err != nil {
			return -1, says(thread, fmt.Sprintf("API socket %q is already in use by another running instance", path))
		}
		_ = os.Remove(path)
	}
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err == nil {
		err = unix.Bind(fd, &unix.SockaddrUnix{Name: path})
	}
	if err == nil {
		err = unix.Listen(fd, 128)
	}
	if err != nil {
		return -1, causedBy(err, thread, socket)
	}
	return fd, nil
}

// signals ends the VM and the process orderly.
func (v *vmm) signals() {
	incoming := make(chan os.Signal, 1)
	signal.Notify(incoming, unix.SIGTERM, unix.SIGINT)
	signal.Ignore(unix.SIGCHLD, unix.SIGPIPE)
	go func() {
		<-incoming
		v.mu.Lock()
		defer v.mu.Unlock()
		v.end()
	}()
}

// causedBy is an error with one of the system's as its cause.
func causedBy(err error, chain ...string) *fault { return says(append(chain, rust.IOError(err))...) }
