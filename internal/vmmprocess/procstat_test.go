package vmmprocess

import (
	"bytes"
	"fmt"
	"os"
	"strings"
	"testing"
)

// statLine makes a line of /proc/<pid>/stat with 52 fields.
func statLine(comm, state string, ppid int, ticks, startCode uint64, exit int) string {
	fields := make([]string, 50)
	for i := range fields {
		fields[i] = fmt.Sprint(1000 + i)
	}
	fields[fieldState] = state
	fields[fieldPPID] = fmt.Sprint(ppid)
	fields[fieldStartTicks] = fmt.Sprint(ticks)
	fields[fieldStartCode] = fmt.Sprint(startCode)
	fields[fieldExitCode] = fmt.Sprint(exit)
	return "4711 (" + comm + ") " + strings.Join(fields, " ") + "\n"
}

func TestParseStat(t *testing.T) {
	want := procStat{State: 'S', PPID: 17, StartTicks: 987654321, ExitCode: 9, Told: true}
	for _, comm := range []string{"qemu", "", "a b", "x) R 1 (", ") R 1 2 3 4 5", "((", "))", "new\nline", "tab\t)"} {
		got, err := parseStat([]byte(statLine(comm, "S", 17, 987654321, 4096, 9)))
		if err != nil || got != want {
			t.Errorf("name %q: %+v (%v), want %+v", comm, got, err, want)
		}
	}
	if got, err := parseStat([]byte(statLine("x", "S", 17, 5, 1, 0))); err != nil || got.Told {
		t.Errorf("%+v (%v), want that the kernel does not tell", got, err)
	}
	whole := statLine("x", "S", 17, 5, 4096, 0)
	for _, bad := range []string{"", "4711", "4711 (x", "4711 (x)", "4711 (x) S 1 2", whole[:len(whole)-6], statLine("x", "SS", 1, 1, 1, 1), strings.Replace(whole, " 5 ", " -5 ", 1)} {
		if got, err := parseStat([]byte(bad)); err == nil {
			t.Errorf("%q: %+v, want an error", bad, got)
		}
	}
}

func TestReadStatOfThisProcess(t *testing.T) {
	st, err := readStat(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	if st.PPID != os.Getppid() || st.StartTicks == 0 || !st.Told {
		t.Errorf("%+v, want the parent %d", st, os.Getppid())
	}
}

// A process chooses its name; it must not choose what we read of it.
func FuzzParseStat(f *testing.F) {
	f.Add([]byte("qemu"), uint64(1), 2)
	f.Add([]byte(") R 1 ("), uint64(1<<63), 1)
	f.Fuzz(func(t *testing.T, comm []byte, ticks uint64, ppid int) {
		line := []byte(statLine(string(comm), "R", ppid, ticks, 4096, 0))
		got, err := parseStat(line)
		if err != nil || got.StartTicks != ticks || got.PPID != ppid {
			t.Fatalf("%q: %+v, %v", line, got, err)
		}
		for i := range len(line) - len("0\n") { // cut off, it is no stat line, or says the same
			if got, err := parseStat(line[:i]); err == nil && got.StartTicks != ticks && bytes.LastIndexByte(line[:i], ')') == bytes.LastIndexByte(line, ')') {
				t.Fatalf("%q: %+v", line[:i], got)
			}
		}
	})
}
