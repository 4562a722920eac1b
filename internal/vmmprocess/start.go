package vmmprocess

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/unkeyed/unkey/go/deploy/metald/internal/backend/types"
)

// Command is a VMM to start.
type Command struct {
	Path     string     // absolute path of the executable: an ELF file, as a script's process is its interpreter
	Args     []string   // without argv[0]
	Env      []string   // the whole environment; nil is empty
	Dir      string     // working directory; "" is "/"
	Files    []*os.File // become fd FirstFile, FirstFile+1 … in the VMM; the caller closes its own afterwards
	Stderr   string     // file that takes stdout and stderr, made 0600 and appended to, or a FIFO; "" is /dev/null
	Stdout   string     // a FIFO as Stderr may be one, that takes stdout instead; "" for none
	UID, GID uint32     // 0: metald's own

	// MaxOpenFiles is how many files the VMM may have open; 0 is as many as metald may, and more than that is as many. The
	// start gate sets it: for that of another process CAP_SYS_RESOURCE is needed, which not every root has.
	MaxOpenFiles uint64

	// Root is the working directory instead of Dir, by a descriptor: so the VMM's user need not be able to reach it. Files
	// are FirstFileAtRoot and on then.
	Root *os.File

	// Becomes is the file that Path executes in its own process in the end, as a jailer does with a VMM; nil is Path
	// itself. The process is known by it.
	Becomes *Executable

	// The process is the first of a PID namespace, alone in a network namespace; both go with it. Only root can.
	NewPIDNamespace, NewNetNamespace bool

	// The cgroups that the process is in before it becomes the VMM, so that they have everything that this ever does.
	// BornIn is a directory of v2, open, and nil for none; Joins are the "tasks" of groups of v1, into which the start
	// gate writes itself. A thread that moves itself waits for nobody; to move another process the kernel first waits
	// for all that fork or end on the host, some 10 ms each time (cgroup_attach_lock in kernel/cgroup/cgroup.c).
	// A VMM that could not join ends, with a line in Stderr, before it is one.
	BornIn *os.File
	Joins  []string
}

// FirstFile is the number that Command.Files[0] has in the VMM, and FirstFileAtRoot where there is a Command.Root.
const (
	FirstFile       = 4
	FirstFileAtRoot = 5
)

// Start starts a process that can do nothing until commit has returned nil: the start gate. Commit gets the
// identity that the VMM is going to have, and is to make it durable; so there is never a live VMM without a
// record. The gate is loaded while commit runs.
//
// After an error no process is left, also where ctx ended. After a nil error the process does not depend on
// ctx, nor on metald: it has its own session and no death signal. A VMM that cannot be executed after all ends
// with exit code 126 or 127 and a line in Stderr.
//
// Command.Env with PWD, OLDPWD or SHLVL is refused: a gate that is a shell would change them.
func (s *Supervisor) Start(ctx context.Context, c Command, commit func(types.ProcessIdentity) error) (*Process, error) {
	p, err := s.start(ctx, c, commit)
	if err != nil {
		return nil, fmt.Errorf("start %s: %w", c.Path, err)
	}
	return p, nil
}

func (s *Supervisor) start(ctx context.Context, c Command, commit func(types.ProcessIdentity) error) (*Process, error) {
	id, err := c.identity()
	if err != nil {
		return nil, err
	}
	if err := ctx.Err(); err != nil {
		return nil, context.Cause(ctx)
	}
	p, leave, err := s.spawn(c)
	if err != nil {
		return nil, err
	}
	defer leave.Close()
	if err := p.pass(ctx, leave, id, c, commit); err != nil {
		p.abort()
		return nil, err
	}
	return p, nil
}

// spawn starts the gate. It returns the end of the pipe that lets it go on.
func (s *Supervisor) spawn(c Command) (*Process, *os.File, error) {
	wait, leave, err := os.Pipe() // close-on-exec, like every file of metald
	if err != nil {
		return nil, nil, err
	}
	defer wait.Close()
	std, err := c.openStd()
	if err != nil {
		leave.Close()
		return nil, nil, err
	}
	defer std.close()
	pidfd := -1
	fds := c.fds(std, wait)
	path := s.gate.path(len(fds))
	pid, err := syscall.ForkExec(path, s.gate.argv(c), &syscall.ProcAttr{
		Dir:   c.dir(),
		Env:   c.Env,
		Files: s.gate.files(fds),
		Sys:   c.attributes(&pidfd),
	})
	runtime.KeepAlive(c.Files)
	runtime.KeepAlive(c.Root)
	runtime.KeepAlive(c.BornIn)
	if err != nil {
		err = &os.PathError{Op: "fork/exec", Path: path, Err: err}
	} else if pidfd < 0 {
		err = errors.Join(errors.New("the kernel has no pidfds; metald needs Linux 5.4"), killChild(pid))
	}
	if err != nil {
		leave.Close()
		return nil, nil, err
	}
	p := &Process{s: s, child: true, told: true, exited: make(chan struct{}), pidfd: pidfd}
	p.id.PID, p.id.BootID = pid, s.bootID
	return p, leave, nil
}

// pass commits the identity of the process, watches it and opens the gate, in this order.
func (p *Process) pass(ctx context.Context, leave *os.File, id types.ProcessIdentity, c Command, commit func(types.ProcessIdentity) error) error {
	st, err := readStat(p.id.PID)
	if err != nil {
		return err
	}
	id.PID, id.BootID, id.StartTicks = p.id.PID, p.id.BootID, st.StartTicks
	p.id = id
	if err := commit(p.id); err != nil {
		return err
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if err := p.s.watch(p); err != nil {
		return err
	}
	// A gate that has ended could not join its groups, and said so: its end is seen as that of one which ends now.
	if _, err := leave.Write(p.s.gate.leave(c, c.numFiles())); err != nil && !errors.Is(err, syscall.EPIPE) {
		return fmt.Errorf("open the start gate: %w", err)
	}
	return nil
}

// abort ends a child that was not let through the gate.
func (p *Process) abort() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.pidfd < 0 {
		return
	}
	p.letGo()
	_ = killChild(p.id.PID) // a child that is not reaped keeps its pid, so this cannot hit another process
}

// killChild ends and reaps a child that sits in the gate or has ended; neither takes long.
func killChild(pid int) error {
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		return err
	}
	for {
		_, err := syscall.Wait4(pid, nil, 0, nil)
		if err != syscall.EINTR {
			return err
		}
	}
}

func (c Command) lowersFiles() bool {
	var has unix.Rlimit
	return c.MaxOpenFiles != 0 && (unix.Getrlimit(unix.RLIMIT_NOFILE, &has) != nil || has.Max >= c.MaxOpenFiles)
}

func (c Command) dir() string {
	if c.Dir == "" {
		return "/"
	}
	return filepath.Clean(c.Dir)
}

// numFiles is how many files the process has beside the gate's own.
func (c Command) numFiles() int {
	if c.Root != nil {
		return FirstFileAtRoot + len(c.Files)
	}
	return FirstFile + len(c.Files)
}

func (c Command) fds(std stdFiles, wait *os.File) []uintptr {
	out, err := std.out.Fd(), std.err.Fd()
	_ = unix.SetNonblock(int(out), true) // Fd may make it wait, as a full FIFO must not; a file never does
	_ = unix.SetNonblock(int(err), true)
	fds := make([]uintptr, 0, c.numFiles()+1)
	fds = append(fds, std.in.Fd(), out, err, wait.Fd())
	if c.Root != nil {
		fds = append(fds, c.Root.Fd())
	}
	for _, f := range c.Files {
		fds = append(fds, f.Fd())
	}
	return fds
}

// attributes gives the process its own session, so no terminal reaches it, and no death signal: it outlives
// metald.
func (c Command) attributes(pidfd *int) *syscall.SysProcAttr {
	sys := &syscall.SysProcAttr{Setsid: true, PidFD: pidfd}
	if c.UID != 0 || c.GID != 0 {
		sys.Credential = &syscall.Credential{Uid: c.UID, Gid: c.GID} // no supplementary groups
	}
	if c.BornIn != nil {
		sys.UseCgroupFD, sys.CgroupFD = true, int(c.BornIn.Fd())
	}
	if c.NewPIDNamespace {
		sys.Cloneflags |= syscall.CLONE_NEWPID
	}
	if c.NewNetNamespace {
		sys.Cloneflags |= syscall.CLONE_NEWNET
	}
	return sys
}

// stdFiles are the VMM's standard files, some of which may be the same.
type stdFiles struct{ in, out, err *os.File }

func (c Command) openStd() (std stdFiles, err error) {
	if std.in, err = os.OpenFile(os.DevNull, os.O_RDWR, 0); err != nil {
		return stdFiles{}, err
	}
	std.out, std.err = std.in, std.in
	if c.Stderr != "" {
		if std.err, err = openOutput(c.Stderr); err != nil {
			std.in.Close()
			return stdFiles{}, err
		}
		std.out = std.err
	}
	if c.Stdout != "" {
		if std.out, err = openOutput(c.Stdout); err != nil {
			std.in.Close()
			std.err.Close()
			return stdFiles{}, err
		}
	}
	return std, nil
}

// openOutput opens a file or FIFO for a VMM, which has both ends of a FIFO, so that it has a reader, and is not killed
// for want of one, without metald.
func openOutput(path string) (*os.File, error) {
	return os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_APPEND|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0o600)
}

// close may close a file twice, which does nothing.
func (f stdFiles) close() {
	f.in.Close()
	f.out.Close()
	f.err.Close()
}
