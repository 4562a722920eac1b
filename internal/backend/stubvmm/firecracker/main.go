package firecracker

import (
	"errors"
	"fmt"
	"io"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/unkeyed/unkey/go/deploy/metald/internal/backend/stubvmm/rust"
)

// The codes with which Firecracker ends (FcExitCode).
const (
	exitOK        = 0
	exitError     = 1
	exitBadLevel  = 152
	exitArguments = 153
)

func knownArgs() []rust.Arg {
	return []rust.Arg{
		{Name: "api-sock", Value: true, Default: "/run/firecracker.socket"},
		{Name: "id", Value: true, Default: "anonymous-instance"},
		{Name: "seccomp-filter", Value: true, Forbids: "no-seccomp"},
		{Name: "no-seccomp", Forbids: "seccomp-filter"},
		{Name: "start-time-us", Value: true},
		{Name: "start-time-cpu-us", Value: true},
		{Name: "parent-cpu-time-us", Value: true},
		{Name: "config-file", Value: true},
		{Name: "metadata", Value: true},
		{Name: "no-api", Requires: "config-file"},
		{Name: "log-path", Value: true},
		{Name: "level", Value: true},
		{Name: "module", Value: true},
		{Name: "show-level"},
		{Name: "show-log-origin"},
		{Name: "metrics-path", Value: true},
		{Name: "boot-timer"},
		{Name: "version"},
		{Name: "snapshot-version"},
		{Name: "describe-snapshot", Value: true},
		{Name: "http-api-max-payload-size", Value: true, Default: "51200"},
		{Name: "mmds-size-limit", Value: true},
		{Name: "enable-pci"},
	}
}

// Main runs the stand-in with the arguments behind its name, and returns its exit code.
func Main(args []string, stdout, stderr io.Writer) int {
	a, bad := rust.ParseArgs(knownArgs(), args)
	p := &process{stderr: stderr}
	switch {
	case bad != nil:
		p.vmm = &vmm{log: newLogger("anonymous-instance", newMetrics())}
		return p.fail(exitArguments, "ParseArguments("+bad.Debug()+")",
			"Arguments parsing error: "+bad.Error()+` \n\nFor more information try --help.`)
	case a.Help, a.Version:
		fmt.Fprintf(stdout, "Firecracker v%s\n\n", Version)
	case a.Has("snapshot-version"):
		fmt.Fprintln(stdout, "v10.0.0")
	default:
		return p.run(a)
	}
	// Firecracker's logger is up before it reads its arguments, and says good-bye.
	newLogger("anonymous-instance", newMetrics()).log(levelInfo, mainThread, "Firecracker exiting successfully. exit_code=0")
	return exitOK
}

type process struct {
	vmm    *vmm
	stderr io.Writer
}

// fail ends as Firecracker does with an error, which is said in two ways.
func (p *process) fail(code int, debug, display string) int {
	p.vmm.log.log(levelError, mainThread, "%s", display)
	fmt.Fprintf(p.stderr, "Error: %s\n", debug)
	p.vmm.log.log(levelError, mainThread, "Firecracker exiting with error. exit_code=%d", code)
	return code
}

func (p *process) run(a *rust.Args) int {
	k, err := readKnobs()
	if err != nil {
		fmt.Fprintln(p.stderr, err)
		return exitError
	}
	for _, missing := range []string{"metadata", "describe-snapshot", "boot-timer", "seccomp-filter"} {
		if a.Has(missing) {
			fmt.Fprintf(p.stderr, "stub-firecracker: the stand-in has no --%s\n", missing)
			return exitError
		}
	}
	v, err := newVMM(a.Get("id"), k)
	if err != nil {
		fmt.Fprintln(p.stderr, err)
		return exitError
	}
	p.vmm = v
	if bad := rust.CheckInstanceID(v.id); bad != nil {
		v.log.id = "anonymous-instance"
		v.panics("Invalid instance ID: " + bad.Debug)
	}
	if code := p.configure(a); code != exitOK {
		return code
	}
	v.signals()
	switch {
	case !a.Has("config-file"):
		return p.serve(a)
	case !a.Has("no-api"):
		fmt.Fprintln(p.stderr, "stub-firecracker: the stand-in has no --config-file without --no-api")
		return exitError
	}
	return p.runFile(a.Get("config-file"))
}

// configure is for the log and the metrics, as far as the command line says something of them.
func (p *process) configure(a *rust.Args) int {
	c := loggerConfig{}
	if a.Has("log-path") {
		path := rust.Path(a.Get("log-path"))
		c.LogPath = &path
	}
	yes := true
	if a.Has("show-level") {
		c.ShowLevel = &yes
	}
	if a.Has("show-log-origin") {
		c.ShowLogOrigin = &yes
	}
	if a.Has("level") {
		l, ok := parseLevel(a.Get("level"))
		if !ok {
			return p.fail(exitBadLevel, fmt.Sprintf("InvalidLogLevel(LevelFilterFromStrError(%q))", a.Get("level")),
				fmt.Sprintf("Invalid value for logger level: Failed to parse string to level filter: %s.Possible values: [Error, Warning, Info, Debug]", a.Get("level")))
		}
		c.Level = &levelFilter{l}
	}
	if err := p.vmm.log.configure(c); err != nil {
		return p.fail(exitError, "LoggerInitialization(LoggerUpdateError("+rust.DebugIOError(err)+"))",
			"Could not initialize logger: Failed to open target file: "+rust.IOError(err))
	}
	p.vmm.log.log(levelInfo, mainThread, "Running Firecracker v%s", Version)
	if !a.Has("metrics-path") {
		return exitOK
	}
	if err := p.vmm.metrics.open(a.Get("metrics-path")); err != nil {
		return p.fail(exitError, fmt.Sprintf("MetricsInitialization(InitializationFailure(%q))",
			strings.TrimPrefix(err.Error(), "Cannot initialize the metrics system due to bad user input: ")),
			"Could not initialize metrics: "+err.Error())
	}
	return exitOK
}

func (p *process) serve(a *rust.Args) int {
	v := p.vmm
	maxBody := v.number(a, "http-api-max-payload-size", "usize")
	v.mmdsMax = maxBody
	if a.Has("mmds-size-limit") {
		v.mmdsMax = v.number(a, "mmds-size-limit", "usize")
	}
	v.pci = a.Has("enable-pci")
	if code, ended := p.misbehave(); ended {
		return code
	}
	path := a.Get("api-sock")
	socket, err := listen(path)
	switch {
	case errors.Is(err, unix.EADDRINUSE):
		return p.fail(exitError, fmt.Sprintf("RunWithApi(FailedToBindSocket(%q))", path),
			fmt.Sprintf("RunWithApiError error: Failed to open the API socket at: %s. Check that it is not already used.", path))
	case err != nil:
		return p.fail(exitError, "RunWithApi(FailedToBindAndRunHttpServer(IOError("+rust.DebugIOError(err)+")))",
			"RunWithApiError error: Failed to bind and run the HTTP server: IO error: "+rust.IOError(err))
	}
	v.log.log(levelInfo, mainThread, "Listening on API socket (%q).", path)
	s, err := newServer(v, socket, v.kill, maxBody)
	if err != nil {
		fmt.Fprintln(p.stderr, err)
		return exitError
	}
	v.log.log(levelInfo, apiThread, "API server started.")
	v.startTimes(a)
	if err := s.run(); err != nil {
		fmt.Fprintln(p.stderr, err)
		return exitError
	}
	return p.leave()
}

// leave is the end, after an orderly one of the machine or a snapshot that could not be loaded.
func (p *process) leave() int {
	v := p.vmm
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.state == notStarted {
		return p.fail(v.exit, "RunWithApi(BuildMicroVmError(Restore))",
			"RunWithApiError error: Failed to build MicroVM: Loading snapshot failed..")
	}
	v.firstLine()
	v.log.log(levelInfo, mainThread, "Killing vCPU threads")
	if err := v.metrics.write(); err != nil {
		v.log.log(levelError, mainThread, "Failed to write metrics while stopping: %v", err)
	}
	v.log.log(levelInfo, mainThread, "Firecracker exiting successfully. exit_code=0")
	return v.exit
}
