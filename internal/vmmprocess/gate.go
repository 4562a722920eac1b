package vmmprocess

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"runtime"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// gate is the program that a process is before it becomes a VMM. It enters the cgroups, lowers the limits, waits for
// leave on fd 3, and then becomes the VMM, so that pid and start ticks stay the same. If metald dies before it gave
// leave, the pipe closes, and the gate ends. It makes no core file: that would hold the guest's memory. Where memory
// runs out, a VMM goes before metald, whose service may be protected (OOMScoreAdjust) and be inherited from.
//
// It is a program of some hundred bytes (gate_amd64.s), which takes a fifth of the CPU time that a shell takes to start.
// The shell does the same where there is no such program for the architecture, or where the host does not execute what is
// no file (vm.memfd_noexec).
type gate struct {
	program *os.File // a sealed memfd; nil for the shell
}

// gateName is the gate's argv[0], and the name of its memfd.
const gateName = "metald-gate"

const oomScoreFile = "/proc/self/oom_score_adj"

// errNoProgram is of an architecture without gate_<arch>.s.
var errNoProgram = errors.New("there is no program for " + runtime.GOARCH)

// newGate makes a gate that was seen to work. It works with an error, too, which says why it is a shell.
func newGate() (gate, error) {
	code := gateProgram()
	if code == nil {
		return gate{}, errNoProgram
	}
	program, err := executableOf(code)
	if err != nil {
		return gate{}, err
	}
	g := gate{program: program}
	if err := g.try(); err != nil {
		program.Close()
		return gate{}, err
	}
	return g, nil
}

// executableOf returns an executable that nobody can change.
func executableOf(code []byte) (*os.File, error) {
	fd, err := unix.MemfdCreate(gateName, unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING|unix.MFD_EXEC)
	if errors.Is(err, unix.EINVAL) { // Linux before 6.3, where every memfd may be executed
		fd, err = unix.MemfdCreate(gateName, unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
	}
	if err != nil {
		return nil, err
	}
	file := os.NewFile(uintptr(fd), gateName)
	defer file.Close() // a file that is open for writing is not executed
	if _, err := file.Write(code); err != nil {
		return nil, err
	}
	if err := file.Chmod(0o555); err != nil {
		return nil, err
	}
	const seals = unix.F_SEAL_SEAL | unix.F_SEAL_WRITE | unix.F_SEAL_GROW | unix.F_SEAL_SHRINK
	if _, err := unix.FcntlInt(uintptr(fd), unix.F_ADD_SEALS, seals); err != nil {
		return nil, err
	}
	return os.Open(fmt.Sprintf("/proc/self/fd/%d", fd))
}

// try starts the gate and gives it no leave: it is to end, as it does when metald dies.
func (g gate) try() error {
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer null.Close()
	c := Command{Path: os.DevNull}
	fds := []uintptr{null.Fd(), null.Fd(), null.Fd(), null.Fd()}
	attr := &syscall.ProcAttr{Dir: "/", Env: []string{}, Files: g.files(fds)}
	var pid int
	for range 100 {
		pid, err = syscall.ForkExec(g.path(len(fds)), g.argv(c), attr)
		if err != syscall.ETXTBSY { // a process that was just forked has it open for writing until it executes something
			break
		}
		time.Sleep(time.Millisecond)
	}
	if err != nil {
		return err
	}
	var status syscall.WaitStatus
	for {
		if _, err = syscall.Wait4(pid, &status, 0, nil); err != syscall.EINTR {
			break
		}
	}
	if err == nil && status.ExitStatus() != 1 {
		err = fmt.Errorf("the start gate ended with status %#x", uint32(status))
	}
	return err
}

// files are those of a process that has fds and becomes the gate.
func (g gate) files(fds []uintptr) []uintptr {
	if g.program == nil {
		return fds
	}
	return append(fds, g.program.Fd())
}

// path is how a process with n files beside the gate's finds the gate.
func (g gate) path(n int) string {
	if g.program == nil {
		return gateShell
	}
	return fmt.Sprintf("/proc/self/fd/%d", n)
}

// argv are the gate's arguments: what it enters, up to an empty one, and what it becomes.
func (g gate) argv(c Command) []string {
	if g.program == nil {
		return c.shellArgv()
	}
	argv := append([]string{gateName, oomScoreFile}, c.Joins...)
	return append(append(argv, "", c.Path), c.Args...)
}

// leave is what is written to a gate of a process with n files beside the gate's.
func (g gate) leave(c Command, n int) []byte {
	if g.program == nil {
		return []byte("go\n")
	}
	var maxFiles, atRoot uint64
	if c.lowersFiles() {
		maxFiles = c.MaxOpenFiles
	}
	if c.Root != nil {
		atRoot = 1
	}
	var b []byte
	for _, field := range []uint64{maxFiles, atRoot, uint64(n)} { // as gate_amd64.s reads them; n is its own file
		b = binary.NativeEndian.AppendUint64(b, field)
	}
	return b
}

// isGate tells whether a process that a metald started is still its gate, of this metald or an earlier one.
func isGate(pid int, exe Executable) bool {
	if shell, err := statExecutable(gateShell); err == nil && exe == shell {
		return true
	}
	target, err := os.Readlink(procPath(pid, "exe"))
	return err == nil && strings.HasPrefix(target, "/memfd:"+gateName+" ")
}

// gateScript is the gate as a shell. Shells put variables of their own into the environment, which the VMM must not get
// (bash cannot be kept from SHLVL=0 and _, dash can).
const (
	gateShell  = "/bin/sh"
	gateScript = gateJoins + `ulimit -c 0; { echo 500 >` + oomScoreFile + `; } 2>/dev/null; unset PWD OLDPWD SHLVL; read -r go <&3 && exec 3<&- && exec "$@"`

	// gateScriptAt does so in the directory that is open as fd 4. cd sets variables again.
	gateScriptAt = gateJoins + `ulimit -c 0; { echo 500 >` + oomScoreFile + `; } 2>/dev/null; read -r go <&3 && exec 3<&- && cd /proc/self/fd/4 && exec 4<&- && unset PWD OLDPWD SHLVL && exec "$@"`

	// gateJoins enters the groups that come first among the arguments, up to an empty one.
	gateJoins = `while [ "$1" ]; do echo 0 >"$1" || exit 126; shift; done; shift; `
)

func (c Command) shellArgv() []string {
	script := gateScript
	if c.Root != nil {
		script = gateScriptAt
	}
	if c.lowersFiles() {
		script = fmt.Sprintf("ulimit -n %d || exit 126; ", c.MaxOpenFiles) + script
	}
	argv := append([]string{gateShell, "-c", script, gateName}, c.Joins...)
	return append(append(argv, "", c.Path), c.Args...)
}
