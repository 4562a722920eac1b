package proc

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// child starts a process that waits for its standard input to end.
func child(tb testing.TB, script string) (pid int, end func()) {
	tb.Helper()
	cmd := exec.Command("/bin/sh", "-c", script)
	in, err := cmd.StdinPipe()
	if err != nil {
		tb.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		tb.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		tb.Fatal(err)
	}
	ended := false
	end = func() {
		if !ended {
			ended = true
			in.Close()
			_ = cmd.Wait()
		}
	}
	tb.Cleanup(end)
	if _, err := out.Read(make([]byte, 16)); err != nil {
		tb.Fatalf("the child did not come up: %v", err)
	}
	return cmd.Process.Pid, end
}

func meter(tb testing.TB, pid int) *Meter {
	tb.Helper()
	m, err := Open(pid)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(m.Close)
	return m
}

func TestCPUIsThatOfAllThreadsAndNeverFalls(t *testing.T) {
	m := meter(t, os.Getpid())
	var before unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &before); err != nil {
		t.Fatal(err)
	}
	was, err := m.CPU()
	if err != nil {
		t.Fatal(err)
	}
	for spent := time.Duration(0); spent < 20*time.Millisecond; {
		now, err := m.CPU()
		if err != nil || now < was {
			t.Fatalf("the clock went from %v to %v, %v", was, now, err)
		}
		spent += now - was
		was = now
	}
	// Getrusage counts the same threads: it was asked earlier, so it cannot say more.
	if used := time.Duration(before.Utime.Nano() + before.Stime.Nano()); was < used {
		t.Errorf("the clock says %v, and getrusage said %v before", was, used)
	}
}

func TestResidentFollowsWhatIsTouched(t *testing.T) {
	m := meter(t, os.Getpid())
	before, err := m.Resident()
	if err != nil {
		t.Fatal(err)
	}
	const size = 64 << 20
	area, err := unix.Mmap(-1, 0, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_ANON|unix.MAP_PRIVATE|unix.MAP_POPULATE)
	if err != nil {
		t.Fatal(err)
	}
	during, err := m.Resident()
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.Munmap(area); err != nil {
		t.Fatal(err)
	}
	const slack = 8 << 20 // of the Go runtime, meanwhile
	if grown := int64(during) - int64(before); grown < size-slack || grown > size+slack {
		t.Errorf("after %d bytes were touched it grew by %d", size, grown)
	}
}

func TestIOCountsWhatIsWritten(t *testing.T) {
	dir, err := os.MkdirTemp("/var/tmp", "proc") // on a disk, where /tmp might be memory
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	if onMemory(t, dir) {
		t.Skip("/var/tmp is in memory, where nothing is written to storage")
	}
	const size = 1 << 20
	pid, _ := child(t, "echo up; read -r _")
	m := meter(t, pid)
	before, err := m.IO()
	if err != nil {
		t.Fatal(err)
	}
	own := meter(t, os.Getpid())
	mine, err := own.IO()
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "g"), make([]byte, size), 0o600); err != nil {
		t.Fatal(err)
	}
	now, err := own.IO()
	if err != nil || now.WriteBytes < mine.WriteBytes+size {
		t.Errorf("%d bytes were written, and the count went from %d to %d, %v", size, mine.WriteBytes, now.WriteBytes, err)
	}
	if again, err := m.IO(); err != nil || again.WriteBytes != before.WriteBytes {
		t.Errorf("a process that waits went from %+v to %+v, %v", before, again, err)
	}
}

func onMemory(t *testing.T, dir string) bool {
	t.Helper()
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		t.Fatal(err)
	}
	return st.Type == unix.TMPFS_MAGIC
}

func TestEndedProcessIsGone(t *testing.T) {
	pid, end := child(t, "echo up; read -r _")
	m := meter(t, pid)
	if _, err := m.Resident(); err != nil {
		t.Fatal(err)
	}
	end()
	if n, err := m.Resident(); !errors.Is(err, ErrGone) {
		t.Errorf("resident: %d, %v", n, err)
	}
	if got, err := m.IO(); !errors.Is(err, ErrGone) {
		t.Errorf("I/O: %+v, %v", got, err)
	}
	if cpu, err := m.CPU(); !errors.Is(err, ErrGone) {
		t.Errorf("CPU: %v, %v", cpu, err)
	}
	if _, err := Open(pid); !errors.Is(err, ErrGone) {
		t.Errorf("opened again: %v", err)
	}
}

func TestReadingsAgreeWithTheKernelsText(t *testing.T) {
	pid, _ := child(t, "echo up; read -r _")
	m := meter(t, pid)
	text, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/io")
	if err != nil {
		t.Fatal(err)
	}
	got, err := m.IO()
	if err != nil {
		t.Fatal(err)
	}
	for key, n := range map[string]uint64{"\nread_bytes: ": got.ReadBytes, "\nwrite_bytes: ": got.WriteBytes} {
		if !strings.Contains(string(text), key+strconv.FormatUint(n, 10)+"\n") {
			t.Errorf("%q is %d, in\n%s", strings.TrimSpace(key), n, text)
		}
	}
}

func TestReadingAllocatesNothing(t *testing.T) {
	m := meter(t, os.Getpid())
	if n := testing.AllocsPerRun(100, func() { readAll(t, m) }); n != 0 {
		t.Errorf("a reading allocates %v times", n)
	}
}

func readAll(tb testing.TB, m *Meter) {
	_, err1 := m.CPU()
	_, err2 := m.Resident()
	_, err3 := m.IO()
	if err1 != nil || err2 != nil || err3 != nil {
		tb.Fatal(err1, err2, err3)
	}
}

func BenchmarkReading(b *testing.B) {
	pid, _ := child(b, "echo up; read -r _")
	m := meter(b, pid)
	b.ReportAllocs()
	for b.Loop() {
		readAll(b, m)
	}
}

func BenchmarkCPU(b *testing.B) {
	pid, _ := child(b, "echo up; read -r _")
	m := meter(b, pid)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := m.CPU(); err != nil {
			b.Fatal(err)
		}
	}
}

func TestStartTicksTellOneProcessFromTheNext(t *testing.T) {
	pid, end := child(t, "echo up; read x")
	stat, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "stat"))
	if err != nil {
		t.Fatal(err)
	}
	fields := strings.Fields(string(stat)) // the name sh has no spaces
	if got, err := StartTicks(pid); err != nil || strconv.FormatUint(got, 10) != fields[21] {
		t.Errorf("%d, %v, and field 22 is %s", got, err, fields[21])
	}
	end()
	if _, err := StartTicks(pid); !errors.Is(err, ErrGone) {
		t.Errorf("of a process that has ended: %v", err)
	}
}
