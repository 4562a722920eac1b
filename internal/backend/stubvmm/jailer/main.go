package jailer

import (
	"fmt"
	"io"
	"runtime"

	"golang.org/x/sys/unix"

	"github.com/unkeyed/unkey/go/deploy/metald/internal/backend/stubvmm/rust"
)

// Version is what the stand-in claims to be.
const Version = "1.16.1"

func knownArgs() []rust.Arg {
	return []rust.Arg{
		{Name: "id", Value: true, Required: true},
		{Name: "exec-file", Value: true, Required: true},
		{Name: "uid", Value: true, Required: true},
		{Name: "gid", Value: true, Required: true},
		{Name: "chroot-base-dir", Value: true, Default: "/srv/jailer"},
		{Name: "netns", Value: true},
		{Name: "daemonize"},
		{Name: "new-pid-ns"},
		{Name: "cgroup", Value: true, Multiple: true},
		{Name: "resource-limit", Value: true, Multiple: true},
		{Name: "cgroup-version", Value: true, Default: "1"},
		{Name: "parent-cgroup", Value: true},
		{Name: "version"},
	}
}

// refusal is an error in the jailer's words, and as Rust prints it for a programmer.
type refusal struct{ text, debug string }

func (r *refusal) Error() string { return r.text }

// refuse makes one of the jailer's errors: what it is called, what is in it, and how it is said.
func refuse(name, debug, format string, args ...any) error {
	return &refusal{fmt.Sprintf(format, args...), name + "(" + debug + ")"}
}

// systems is a refusal about a path that comes from an error of the system's.
func systems(name, path string, err error, format string) error {
	return refuse(name, fmt.Sprintf("%q, %s", path, rust.DebugIOError(err)), format, path, rust.IOError(err))
}

// Main runs the stand-in with the arguments behind its name. It returns its exit code, unless it has become the
// executable that it was given. The calling goroutine must be the program's only one.
func Main(args []string, stdout, stderr io.Writer) int {
	// What a jail is made of belongs to a thread, and the thread that executes the VMM is the one that survives.
	runtime.LockOSThread()
	// Descriptors are closed when the VMM is executed, and not at once: some may be of Go's runtime.
	_ = unix.CloseRange(3, ^uint(0)>>1&0xffffffff, unix.CLOSE_RANGE_CLOEXEC)
	a, bad := rust.ParseArgs(knownArgs(), args)
	switch {
	case bad != nil:
		return fail(stderr, refuse("ArgumentParsing", bad.Debug(), "Failed to parse arguments: %v", bad))
	case a.Help, a.Version:
		fmt.Fprintf(stdout, "Jailer v%s\n\n", Version)
		return 0
	case a.Has("daemonize"):
		fmt.Fprintln(stderr, "stub-jailer: the stand-in does not do --daemonize")
		return 1
	}
	e, err := newEnv(a)
	if err == nil {
		err = e.run(stdout)
	}
	if err == nil {
		return 0 // the child is in its namespace
	}
	return fail(stderr, err)
}

func fail(stderr io.Writer, err error) int {
	fmt.Fprintln(stderr, err)
	debug := err.Error()
	if r, ok := err.(*refusal); ok {
		debug = r.debug
	}
	fmt.Fprintf(stderr, "Error: %s\n", debug)
	return 1
}
