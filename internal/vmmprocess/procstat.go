package vmmprocess

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"syscall"
)

// procStat is what metald needs of /proc/<pid>/stat, see proc_pid_stat(5).
type procStat struct {
	State      byte
	PPID       int
	StartTicks uint64 // field 22, in clock ticks since the host booted; it stays the same through exec
	ExitCode   int    // field 52, of a zombie; 0 where the kernel does not tell us
	Told       bool   // the kernel tells us the fields that need the right to trace the process
}

// Indexes of the fields after the name, which is field 2: field 3 has index 0.
const (
	fieldState      = 0
	fieldPPID       = 4 - 3
	fieldStartTicks = 22 - 3
	fieldStartCode  = 26 - 3
	fieldExitCode   = 52 - 3
)

var errStat = errors.New("not the content of a /proc/<pid>/stat file")

// parseStat parses after the last ')': the name in parentheses is chosen by the process and may hold anything.
func parseStat(b []byte) (procStat, error) {
	end := bytes.LastIndexByte(b, ')')
	if end < 0 {
		return procStat{}, errStat
	}
	fields := strings.Fields(string(b[end+1:]))
	if len(fields) <= fieldExitCode || len(fields[fieldState]) != 1 {
		return procStat{}, errStat
	}
	ppid, err1 := strconv.Atoi(fields[fieldPPID])
	ticks, err2 := strconv.ParseUint(fields[fieldStartTicks], 10, 64)
	code, err3 := strconv.Atoi(fields[fieldExitCode])
	if err := errors.Join(err1, err2, err3); err != nil {
		return procStat{}, fmt.Errorf("%w: %w", errStat, err)
	}
	return procStat{
		State:      fields[fieldState][0],
		PPID:       ppid,
		StartTicks: ticks,
		ExitCode:   code,
		Told:       fields[fieldStartCode] != "1", // do_task_stat() puts 1 there for those who may not know
	}, nil
}

func readStat(pid int) (procStat, error) {
	b, err := os.ReadFile(procPath(pid, "stat"))
	if err != nil {
		return procStat{}, err
	}
	st, err := parseStat(b)
	if err != nil {
		return procStat{}, fmt.Errorf("%s: %w", procPath(pid, "stat"), err)
	}
	return st, nil
}

func procPath(pid int, name string) string { return "/proc/" + strconv.Itoa(pid) + "/" + name }

// Executable names a file by device and inode.
type Executable struct{ Device, Inode uint64 }

// statExecutable follows links: of /proc/<pid>/exe it tells which file the process runs.
func statExecutable(path string) (Executable, error) {
	var st syscall.Stat_t
	if err := syscall.Stat(path, &st); err != nil {
		return Executable{}, &os.PathError{Op: "stat", Path: path, Err: err}
	}
	return Executable{Device: uint64(st.Dev), Inode: st.Ino}, nil
}
