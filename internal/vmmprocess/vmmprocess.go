// Package vmmprocess starts, watches, re-adopts and ends VMM processes, one per VM. Children and adopted
// processes are watched alike: one epoll over pidfds, no goroutine and no thread per process.
package vmmprocess

import (
	"context"
	"log/slog"
	"os"
	"syscall"

	"github.com/unkeyed/unkey/go/deploy/metald/internal/backend/types"
)

// Supervisor owns the epoll that watches every VMM process.
type Supervisor struct{}

// New returns a Supervisor. Its processes are watched while Run runs.
func New(log *slog.Logger) (*Supervisor, error) { panic("unwritten") }

// Run watches until ctx ends. Processes go on.
func (s *Supervisor) Run(ctx context.Context) error { panic("unwritten") }

// Command is a VMM to start.
type Command struct {
	Path     string     // absolute path of the executable
	Args     []string   // without argv[0]
	Env      []string   // the whole environment; nil is empty
	Dir      string     // working directory; "" is "/"
	Files    []*os.File // become fd FirstFile, FirstFile+1 … in the VMM
	Stderr   string     // file that takes stdout and stderr, made 0600 and appended to; "" is /dev/null
	UID, GID uint32     // 0: metald's own
}

// FirstFile is the number that Command.Files[0] has in the VMM.
const FirstFile = 4

// Start starts a process that can do nothing until commit has returned nil: the start gate.
func (s *Supervisor) Start(ctx context.Context, c Command, commit func(types.ProcessIdentity) error) (*Process, error) {
	panic("unwritten")
}

// Adopt watches a process that an earlier metald started. Its error wraps types.ErrGone if the identity does
// not match a live process.
func (s *Supervisor) Adopt(id types.ProcessIdentity) (*Process, error) { panic("unwritten") }

// Process is one watched VMM process.
type Process struct{}

// Identity names the process for good.
func (p *Process) Identity() types.ProcessIdentity { panic("unwritten") }

// Exited is closed when the process has ended (and, where it is a child, was reaped).
func (p *Process) Exited() <-chan struct{} { panic("unwritten") }

// Status says how it ended; valid after Exited is closed. Known is false where the kernel does not tell.
func (p *Process) Status() (status syscall.WaitStatus, known bool) { panic("unwritten") }

// Kill sends SIGKILL by pidfd and waits for the end or for ctx.
func (p *Process) Kill(ctx context.Context) error { panic("unwritten") }

// Signal sends sig by pidfd; os.ErrProcessDone if the process has ended.
func (p *Process) Signal(sig syscall.Signal) error { panic("unwritten") }

// Release stops watching and closes the pidfd; the process goes on.
func (p *Process) Release() { panic("unwritten") }
