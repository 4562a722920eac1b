// Package proc reads what the kernel counts of one process, ten times a second for as long as it lives: files stay open,
// and a reading allocates nothing.
package proc

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

// ErrGone says that the process has ended. Of its CPU clock that is not always seen: the number of the clock is the pid,
// and the next process with that pid has it. Who must know looks at the process's pidfd after the reading.
var ErrGone = errors.New("the process has ended")

// Meter reads the counters of one process. It is for one goroutine.
type Meter struct {
	pid       int
	statm, io int // descriptors; files of /proc stay bound to their process: a reused pid does not answer through them
	buf       [1024]byte
}

// Open opens the counters of the process pid.
func Open(pid int) (*Meter, error) {
	m := &Meter{pid: pid, statm: -1, io: -1}
	dir := "/proc/" + strconv.Itoa(pid)
	var err error
	if m.statm, err = open(dir + "/statm"); err != nil {
		return nil, err
	}
	if m.io, err = open(dir + "/io"); err != nil {
		m.Close()
		return nil, err
	}
	return m, nil
}

func open(path string) (int, error) {
	for {
		fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
		switch err {
		case unix.EINTR:
			continue
		case nil:
			return fd, nil
		case unix.ENOENT, unix.ESRCH:
			return -1, ErrGone
		}
		return -1, &os.PathError{Op: "open", Path: path, Err: err}
	}
}

// StartTicks is when a process started, in clock ticks since the host booted: field 22 of /proc/<pid>/stat. With the boot
// id it tells a process from the next that has its pid.
func StartTicks(pid int) (uint64, error) {
	path := "/proc/" + strconv.Itoa(pid) + "/stat"
	text, err := os.ReadFile(path)
	switch {
	case errors.Is(err, os.ErrNotExist), errors.Is(err, unix.ESRCH):
		return 0, ErrGone
	case err != nil:
		return 0, err
	}
	// The name of the process, field 2, may hold anything: fields are counted from its last parenthesis.
	fields := bytes.Fields(text[bytes.LastIndexByte(text, ')')+1:])
	const startTime = 22 - 3
	if len(fields) <= startTime {
		return 0, fmt.Errorf("%s: %q", path, text)
	}
	ticks, digits := number(fields[startTime])
	if digits == 0 {
		return 0, fmt.Errorf("%s: %q", path, text)
	}
	return ticks, nil
}

// Close closes the files.
func (m *Meter) Close() {
	for _, fd := range []int{m.statm, m.io} {
		if fd >= 0 {
			unix.Close(fd)
		}
	}
	m.statm, m.io = -1, -1
}

// CPU is the time that all threads of the process had, ended ones included, in nanoseconds. The clock's number is made of
// the pid (clock_getcpuclockid(3)): the one reading that costs half a microsecond and has the kernel's full resolution,
// where the ticks in /proc/<pid>/stat are 10 ms.
func (m *Meter) CPU() (time.Duration, error) {
	const schedClock = 2
	var ts unix.Timespec
	if err := unix.ClockGettime(int32(^m.pid<<3|schedClock), &ts); err != nil {
		if err == unix.EINVAL || err == unix.ESRCH {
			return 0, ErrGone
		}
		return 0, os.NewSyscallError("clock_gettime", err)
	}
	return time.Duration(ts.Nano()), nil
}

var pageSize = uint64(os.Getpagesize())

// Resident is the memory of the process that is in RAM, in bytes: the second field of /proc/<pid>/statm, in pages. The
// kernel sums it up from counters per CPU and may be off by some dozens of pages.
func (m *Meter) Resident() (uint64, error) {
	text, err := m.read(m.statm, "statm")
	if err != nil {
		return 0, err
	}
	rest, ok := after(text, ' ')
	pages, digits := number(rest)
	if !ok || digits == 0 {
		return 0, fmt.Errorf("/proc/%d/statm: %q", m.pid, text)
	}
	return pages * pageSize, nil
}

// IO is what the process had read from and written to storage, in bytes. Written are pages that it made dirty, whether or
// not they have reached the disk (proc_pid_io(5)).
type IO struct {
	ReadBytes, WriteBytes uint64
}

// IO reads /proc/<pid>/io.
func (m *Meter) IO() (IO, error) {
	text, err := m.read(m.io, "io")
	if err != nil {
		return IO{}, err
	}
	var got IO
	var found int
	for len(text) > 0 {
		key, rest := label(text)
		n, digits := number(rest)
		switch {
		case digits == 0:
		case string(key) == "read_bytes":
			got.ReadBytes, found = n, found|1
		case string(key) == "write_bytes":
			got.WriteBytes, found = n, found|2
		}
		text, _ = after(rest, '\n')
	}
	if found != 3 {
		return IO{}, fmt.Errorf("/proc/%d/io has no read_bytes and write_bytes", m.pid)
	}
	return got, nil
}

// read returns the file's text, which is valid until the next reading.
func (m *Meter) read(fd int, name string) ([]byte, error) {
	for {
		n, err := unix.Pread(fd, m.buf[:], 0)
		switch {
		case err == unix.EINTR:
			continue
		case err == unix.ESRCH, err == nil && n == 0:
			return nil, ErrGone
		case err != nil:
			return nil, &os.PathError{Op: "read", Path: "/proc/" + strconv.Itoa(m.pid) + "/" + name, Err: err}
		}
		return m.buf[:n], nil
	}
}

// after is what follows the first sep.
func after(text []byte, sep byte) (rest []byte, found bool) {
	for i, c := range text {
		if c == sep {
			return text[i+1:], true
		}
	}
	return nil, false
}

// label is what comes before the first ": ", and what comes after.
func label(text []byte) (key, rest []byte) {
	for i, c := range text {
		if c == ':' {
			return text[:i], text[min(i+2, len(text)):]
		}
	}
	return nil, nil
}

// number reads a decimal number at the start of text.
func number(text []byte) (n uint64, digits int) {
	for _, c := range text {
		if c < '0' || c > '9' {
			break
		}
		n, digits = n*10+uint64(c-'0'), digits+1
	}
	return n, digits
}
