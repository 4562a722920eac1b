package fifo

import (
	"fmt"
	"io"
	"os"
	"os/exec"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

const childEnv = "METRICS_COLLECTOR_DIR"

// Descriptors of the child.
const (
	childFIFO    = 3
	childControl = 4 // a byte for each flush that was refused; its end asks for a graceful end
	childReady   = 5
)

// child is a metald with one Collector.
func child(dir string) int {
	pipe := os.NewFile(childFIFO, "fifo")
	c, err := Open(dir, twoAndTwo, pipe)
	if err == nil && c.Doubt() != nil {
		err = c.Doubt()
	}
	if err == nil {
		_, err = os.NewFile(childReady, "ready").Write([]byte("!"))
	}
	for err == nil {
		fds := []unix.PollFd{{Fd: childControl, Events: unix.POLLIN}, {Fd: childFIFO, Events: unix.POLLIN}}
		if _, perr := unix.Poll(fds, -1); perr != nil {
			continue
		}
		var b [1]byte
		if fds[0].Revents == 0 {
			err = c.Collect()
		} else if n, rerr := unix.Read(childControl, b[:]); n > 0 {
			err = c.Missed()
		} else if rerr == nil {
			err = c.Close()
			break
		}
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

// life is one run of a metald.
type life struct {
	cmd     *exec.Cmd
	control *os.File
	ready   *os.File
}

func start(t *testing.T, dir string, fifo *os.File) *life {
	t.Helper()
	controlRead, control, err := os.Pipe()
	must(t, err)
	ready, readyWrite, err := os.Pipe()
	must(t, err)
	cmd := exec.CommandContext(t.Context(), os.Args[0])
	cmd.Env = append(os.Environ(), childEnv+"="+dir, "GORACE=atexit_sleep_ms=0")
	cmd.Stderr = os.Stderr
	cmd.ExtraFiles = []*os.File{fifo, controlRead, readyWrite}
	must(t, cmd.Start())
	controlRead.Close()
	readyWrite.Close()
	return &life{cmd: cmd, control: control, ready: ready}
}

func (l *life) wait(t *testing.T) {
	t.Helper()
	must(t, l.ready.SetReadDeadline(time.Now().Add(30*time.Second)))
	if _, err := io.ReadFull(l.ready, make([]byte, 1)); err != nil {
		t.Fatalf("the collector did not start: %v", err)
	}
}

// end kills it, or asks it to end.
func (l *life) end(t *testing.T, kill bool) {
	t.Helper()
	if kill {
		l.cmd.Process.Kill() // may have happened already
	}
	must(t, l.control.Close())
	err := l.cmd.Wait()
	must(t, l.ready.Close())
	if err != nil && !kill {
		t.Fatal(err)
	}
}

// TestTenMinutesWithKills plays 6000 flushes and more to a metald that is killed in the middle of its work 200 times,
// and ends gracefully now and then. Nobody reads between its lives, sometimes until the pipe is full, and while it is
// stopped.
func TestTenMinutesWithKills(t *testing.T) {
	dir := t.TempDir()
	fifo, write := newFIFO(t, dir)
	c, err := Create(dir, twoAndTwo, fifo)
	must(t, err)
	must(t, c.Close())
	v := newVMM(write, 1)
	var before []uint64
	kills, flushes := 0, 0
	tick := func() bool { flushes++; return v.tick() }
	for n := 0; kills < 200 || flushes < 6000; n++ {
		l := start(t, dir, fifo)
		if n%5 > 0 { // otherwise it may not have come far when it ends
			l.wait(t)
		}
		play := v.random.IntN(24)
		if stop := n%30 == 7; stop {
			must(t, l.cmd.Process.Signal(unix.SIGSTOP))
			for range 250 {
				if !tick() {
					l.control.Write([]byte("m"))
				}
			}
			must(t, l.cmd.Process.Signal(unix.SIGCONT))
		}
		kill := n%8 > 0
		midway := time.AfterFunc(time.Duration(v.random.IntN(3000))*time.Microsecond, func() {
			if kill && n%2 == 0 {
				l.cmd.Process.Kill()
			}
		})
		for range play {
			if !tick() {
				l.control.Write([]byte("m"))
			}
		}
		midway.Stop()
		l.end(t, kill)
		if kill {
			kills++
		}
		unread := v.random.IntN(6)
		if n%16 == 9 {
			unread = 220 + v.random.IntN(40)
		}
		for range unread {
			tick()
		}
		if n%10 == 3 {
			before = v.look(t, dir, fifo, before)
		}
	}
	// The pipe has room again, so the last line is whole.
	v.look(t, dir, fifo, before)
	for range 2 {
		if !v.tick() {
			t.Fatal("a flush into an empty pipe was refused")
		}
	}
	c, err = Open(dir, twoAndTwo, fifo)
	must(t, err)
	must(t, c.End(true))
	got := c.Totals()
	must(t, c.Close())
	v.check(t, got)
	v.checkGaps(t, got)
	t.Logf("%d flushes, %d refused; %d kills; %d deltas lost, %d gaps", flushes, len(v.failed), kills, len(v.losses), len(got.Gaps))
	if len(v.losses) == 0 || len(got.Gaps) < 3 || flushes < 6000 || got.Partial || c.Doubt() != nil {
		t.Errorf("the test shows nothing: %+v", got)
	}
}

// look continues in this process for a moment. Totals never fall, and never are above the truth.
func (v *vmm) look(t *testing.T, dir string, fifo *os.File, before []uint64) []uint64 {
	t.Helper()
	c, err := Open(dir, twoAndTwo, fifo)
	must(t, err)
	must(t, c.Collect())
	must(t, c.Close())
	now := flatten(c.Totals().Totals)
	for i, n := range now {
		if n > v.truth[i] || before != nil && n < before[i] {
			t.Errorf("counter %d is %d; before %d, the truth %d", i, n, before[i], v.truth[i])
		}
	}
	return now
}

// checkGaps finds gaps in which nothing was refused. One may come from what Firecracker says on a later line,
// or what the test says at some time.
func (v *vmm) checkGaps(t *testing.T, got Totals) {
	t.Helper()
	for _, g := range got.Gaps {
		found := g.Missed > 0 || g.Told > 0 // the child is told when it comes to it
		for _, at := range v.failed {
			found = found || g.After.UnixMilli() < at && at < g.Before.UnixMilli()
		}
		if !found {
			t.Errorf("a gap for nothing: %+v", g)
		}
	}
}
