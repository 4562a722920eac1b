package jail_test

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/unkeyed/unkey/go/deploy/metald/internal/host/jail"
)

// awaiting starts a wait that ends with the test.
func awaiting(t *testing.T, w world, name string) <-chan error {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	t.Cleanup(cancel)
	done := make(chan error, 1)
	go func() { done <- w.Await(ctx, name) }()
	return done
}

func wantDone(t *testing.T, done <-chan error) {
	t.Helper()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// watches counts the inotify watches of this process, so that a test knows that a wait is one.
func watches(t *testing.T) int {
	t.Helper()
	entries, err := os.ReadDir("/proc/self/fdinfo")
	must(t, err)
	n := 0
	for _, e := range entries {
		b, _ := os.ReadFile("/proc/self/fdinfo/" + e.Name())
		n += strings.Count(string(b), "inotify wd:")
	}
	return n
}

func untilWatches(t *testing.T, n int) {
	t.Helper()
	for deadline := time.Now().Add(limit); watches(t) < n; {
		if time.Now().After(deadline) {
			t.Fatalf("not %d waits in %s", n, limit)
		}
		time.Sleep(time.Millisecond)
	}
}

func TestAwait(t *testing.T) {
	for _, tc := range []struct {
		name   string
		appear func(t *testing.T, w world)
	}{
		{"made", func(t *testing.T, w world) { write(t, w.root+"/run/x", "") }},
		{"a socket", func(t *testing.T, w world) { listen(t, w.root+"/run/x") }},
		{"renamed", func(t *testing.T, w world) {
			write(t, w.root+"/y", "")
			must(t, os.Rename(w.root+"/y", w.root+"/run/x"))
		}},
		{"a link to nowhere", func(t *testing.T, w world) { w.plant(t, "/nowhere", "run/x") }},
	} {
		t.Run(tc.name, func(t *testing.T) {
			w := newWorld(t)
			must(t, w.Dir("run"))
			done := awaiting(t, w, "run/x")
			untilWatches(t, 1)
			write(t, w.root+"/run/other", "") // is not what was waited for
			tc.appear(t, w)
			wantDone(t, done)
			wantDone(t, awaiting(t, w, "run/x")) // it is there
		})
	}
}

func TestAwaitManyAtOnce(t *testing.T) {
	w := newWorld(t)
	must(t, w.Dir("run"))
	const n = 40
	var waits []<-chan error
	for i := range n {
		waits = append(waits, awaiting(t, w, fmt.Sprintf("run/%d", i%4)))
	}
	untilWatches(t, n)
	for i := range 4 {
		write(t, fmt.Sprintf("%s/run/%d", w.root, i), "")
	}
	for _, done := range waits {
		wantDone(t, done)
	}
}

func TestAwaitEndsWithItsContext(t *testing.T) {
	w := newWorld(t)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- w.Await(ctx, "x") }()
	untilWatches(t, 1)
	cancel()
	wantErr(t, <-done, context.Canceled)
	wantErr(t, w.Await(ctx, "x"), context.Canceled)
	write(t, w.root+"/x", "")
	must(t, w.Await(ctx, "x"))
}

// What is waited for can't come any more where its directory went.
func TestAwaitWhereTheDirectoryGoes(t *testing.T) {
	for name, vanish := range map[string]func(w world) error{
		"removed": func(w world) error { return os.Remove(w.root + "/run") },
		"renamed": func(w world) error { return os.Rename(w.root+"/run", w.root+"/old") },
		"another directory": func(w world) error {
			return unix.Renameat2(unix.AT_FDCWD, w.root+"/run", unix.AT_FDCWD, w.root+"/evil", unix.RENAME_EXCHANGE)
		},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			wantErr(t, w.Await(t.Context(), "run/x"), os.ErrNotExist)
			must(t, w.Dir("run"))
			must(t, w.Dir("evil"))
			done := awaiting(t, w, "run/x")
			untilWatches(t, 1)
			must(t, vanish(w))
			wantErr(t, <-done, os.ErrNotExist)
		})
	}
}

func TestAwaitFollowsNoLink(t *testing.T) {
	w := newWorld(t)
	w.plant(t, w.outside, "run")
	if err := w.Await(t.Context(), "run/secret"); err == nil {
		t.Error("what was waited for was found outside")
	}
}

// awaitEnv has the jail that playAwait waits in.
const awaitEnv = "JAIL_TEST_AWAIT"

// playAwait is a process that may watch nothing: it waits for "x".
func playAwait() {
	err := os.WriteFile("/proc/sys/user/max_inotify_instances", []byte("0"), 0)
	if err != nil {
		fmt.Println("skip", err)
		os.Exit(0)
	}
	_, err = unix.InotifyInit1(0)
	fmt.Println("waiting", err)
	j, err := jail.Open(os.Getenv(awaitEnv))
	if err == nil {
		ctx, cancel := context.WithTimeout(context.Background(), limit)
		defer cancel()
		err = j.Await(ctx, "x")
	}
	fmt.Println("done", err)
	os.Exit(0)
}

// The kernel tells a user in so many places, and not in one more; the wait is as good there.
func TestAwaitWhereTheKernelCannotTell(t *testing.T) {
	w := newWorld(t)
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), awaitEnv+"="+w.root)
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags:  syscall.CLONE_NEWUSER,
		UidMappings: []syscall.SysProcIDMap{{HostID: 0, Size: 1 << 17}},
		GidMappings: []syscall.SysProcIDMap{{HostID: 0, Size: 1 << 17}},
		Pdeathsig:   syscall.SIGKILL,
	}
	out, err := cmd.StdoutPipe()
	must(t, err)
	if err := cmd.Start(); err != nil {
		t.Skipf("there is no user namespace to be had: %v", err)
	}
	lines := bufio.NewScanner(out)
	if lines.Scan(); strings.HasPrefix(lines.Text(), "skip") {
		must(t, cmd.Wait())
		t.Skipf("no limit can be set in a user namespace: %s", lines.Text())
	}
	if got := lines.Text(); got != "waiting too many open files" {
		t.Errorf("it said %q: the limit is none", got)
	}
	write(t, w.root+"/x", "")
	if lines.Scan(); lines.Text() != "done <nil>" {
		t.Errorf("it said %q", lines.Text())
	}
	must(t, cmd.Wait())
}
