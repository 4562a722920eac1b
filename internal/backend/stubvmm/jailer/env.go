package jailer

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/unkeyed/unkey/go/deploy/metald/internal/backend/stubvmm/rust"
)

// env is what the command line asks for (Env in src/jailer/src/env.rs).
type env struct {
	id       string
	root     string // the jail
	exec     string // the executable on the host
	uid, gid int
	netns    string
	newPIDNS bool
	cgroups  *cgroups // nil without
	limits   limits
	extra    []string
	uffd     int // the minor number of userfaultfd, or -1
	start    int64
	startCPU int64
}

func clock(id int32) int64 {
	var now unix.Timespec
	_ = unix.ClockGettime(id, &now)
	return now.Nano() / 1000
}

// newEnv checks what is asked for, in the order in which the jailer does. It has one effect already: with cgroup v2, no
// --cgroup and a parent cgroup that exists the process moves into that.
func newEnv(a *rust.Args) (*env, error) {
	e := &env{
		id: a.Get("id"), netns: a.Get("netns"), newPIDNS: a.Has("new-pid-ns"), extra: a.Extra, limits: limits{noFile: defaultNoFile},
		start: clock(unix.CLOCK_MONOTONIC), startCPU: clock(unix.CLOCK_PROCESS_CPUTIME_ID),
	}
	if bad := rust.CheckInstanceID(e.id); bad != nil {
		return nil, refuse("InvalidInstanceId", bad.Debug, "Invalid instance ID: %v", bad)
	}
	if err := e.place(a.Get("exec-file"), a.Get("chroot-base-dir")); err != nil {
		return nil, err
	}
	var ok bool
	if e.uid, ok = parseID(a.Get("uid")); !ok {
		return nil, refuse("Uid", strconv.Quote(a.Get("uid")), "Invalid uid: %s", a.Get("uid"))
	}
	if e.gid, ok = parseID(a.Get("gid")); !ok {
		return nil, refuse("Gid", strconv.Quote(a.Get("gid")), "Invalid gid: %s", a.Get("gid"))
	}
	if err := e.parseCgroups(a); err != nil {
		return nil, err
	}
	if err := e.limits.parse(a.All("resource-limit")); err != nil {
		return nil, err
	}
	e.uffd = userfaultfd()
	return e, nil
}

// place finds the executable, and where its jail is.
func (e *env) place(exec, base string) error {
	const canonicalize = "Failed to canonicalize path %s: %s"
	path, err := canonical(exec)
	if err != nil {
		return systems("Canonicalize", exec, err, canonicalize)
	}
	if info, err := os.Stat(path); err != nil || !info.Mode().IsRegular() {
		return refuse("NotAFile", strconv.Quote(path), "%s is not a file", path)
	}
	dir, err := canonical(base)
	if err != nil {
		return systems("Canonicalize", base, err, canonicalize)
	}
	if info, err := os.Stat(dir); err != nil || !info.IsDir() {
		return refuse("NotADirectory", strconv.Quote(dir), "%s is not a directory", dir)
	}
	e.exec = path
	e.root = filepath.Join(dir, filepath.Base(path), e.id, "root")
	return nil
}

func canonical(path string) (string, error) {
	if path == "" {
		return "", unix.ENOENT
	}
	real, err := filepath.EvalSymlinks(path)
	if err != nil {
		return "", err
	}
	return filepath.Abs(real)
}

// parseID takes what Rust takes for a u32: decimal digits, and a plus sign before them.
func parseID(s string) (int, bool) {
	n, err := strconv.ParseUint(strings.TrimPrefix(s, "+"), 10, 32)
	return int(n), err == nil
}

// climbs says whether a relative path may lead elsewhere: Rust's Path sees a "." only at the beginning.
func climbs(path string) bool {
	parts := strings.Split(path, "/")
	for _, part := range parts {
		if part == ".." {
			return true
		}
	}
	return strings.HasPrefix(path, "/") || parts[0] == "."
}

// userfaultfd finds the device's minor number, if it has three digits: with fewer there is a blank before them, which
// the jailer does not expect.
func userfaultfd() int {
	misc, _ := os.ReadFile("/proc/misc")
	for _, line := range strings.Split(string(misc), "\n") {
		if words := strings.Split(line, " "); len(words) >= 2 && words[1] == "userfaultfd" {
			if n, err := strconv.Atoi(words[0]); err == nil {
				return n
			}
		}
	}
	return -1
}

// limits are the resource limits.
type limits struct {
	fsize  *uint64
	noFile uint64
}

const defaultNoFile = 2048

func (l *limits) parse(args []string) error {
	for _, arg := range args {
		name, value, ok := strings.Cut(arg, "=")
		if !ok {
			return refuse("ResLimitFormat", strconv.Quote(arg), "Invalid format for resources limits: %s", arg)
		}
		n, err := strconv.ParseUint(strings.TrimPrefix(value, "+"), 10, 64)
		if err != nil {
			why := "invalid digit found in string"
			switch {
			case value == "":
				why = "cannot parse integer from empty string"
			case strings.Trim(value, "0123456789") == "":
				why = "number too large to fit in target type"
			}
			return refuse("ResLimitValue", fmt.Sprintf("%q, %q", value, why), "Invalid limit value for resource: %s: %s", value, why)
		}
		switch name {
		case "fsize":
			l.fsize = &n
		case "no-file":
			l.noFile = n
		default:
			return refuse("ResLimitArgument", strconv.Quote(name), "Invalid resource argument: %s", name)
		}
	}
	return nil
}
