package jail_test

import (
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/unkeyed/unkey/go/deploy/metald/internal/host/jail"
)

func TestList(t *testing.T) {
	w := newWorld(t)
	half := w.base + "/firecracker/vm-half" // its making was cut short
	mkdir(t, half)
	must(t, os.Chmod(half, 0o700))
	other, err := jail.Make(w.base+"/firecracker-v2/vm-1/root", vmm)
	must(t, err)
	defer other.Close()
	write(t, w.root+"/file", "")
	// What is no jail, in a base that was meant for something else.
	mkdir(t, w.base+"/home/somebody/documents")
	mkdir(t, w.base+"/home/somebody/root")
	mkdir(t, w.base+"/home/theirs/root")
	must(t, os.Chown(w.base+"/home/theirs", int(vmm.UID), int(vmm.GID)))
	mkdir(t, w.base+"/home/file")
	write(t, w.base+"/home/file/root", "")
	mkdir(t, w.base+"/.hidden/vm-1/root")
	mkdir(t, w.base+"/firecracker/.trash-X/root")
	write(t, w.base+"/firecracker/file", "")
	must(t, os.Symlink(w.outside, w.base+"/firecracker/link"))
	must(t, os.Symlink(w.base+"/firecracker", w.base+"/link"))

	found, err := jail.List(w.base)
	must(t, err)
	want := []jail.Found{
		{Exec: "firecracker", ID: "vm-1", Dir: w.dir},
		{Exec: "firecracker", ID: "vm-half", Dir: half},
		{Exec: "firecracker-v2", ID: "vm-1", Dir: w.base + "/firecracker-v2/vm-1"},
	}
	if fmt.Sprint(found) != fmt.Sprint(want) {
		t.Errorf("found %v, want %v", found, want)
	}
	for _, f := range found {
		must(t, jail.Remove(t.Context(), f.Dir))
	}
	if found, err := jail.List(w.base); err != nil || len(found) != 0 {
		t.Errorf("then %v, %v", found, err)
	}
	if found, err := jail.List(w.base + "/none"); err != nil || len(found) != 0 {
		t.Errorf("without a base %v, %v", found, err)
	}
}

func TestLock(t *testing.T) {
	w := newWorld(t)
	base := w.base + "/new"
	lock, err := jail.Lock(base)
	must(t, err)
	_, err = jail.Lock(base)
	if err == nil || !strings.Contains(err.Error(), fmt.Sprintf("another metald (process %d); end it", os.Getpid())) {
		t.Errorf("the second lock: %v", err)
	}
	// A process that is started meanwhile does not have it.
	sleep := exec.Command("sleep", "60")
	if err := sleep.Start(); err == nil {
		defer func() { sleep.Process.Kill(); sleep.Wait() }()
	}
	must(t, lock.Close())
	again, err := jail.Lock(base)
	must(t, err)
	must(t, again.Close())
	if found, err := jail.List(w.base); err != nil || len(found) != 1 {
		t.Errorf("with a lock beside them the jails are %v, %v", found, err)
	}
}

func TestLockRefuses(t *testing.T) {
	w := newWorld(t)
	must(t, os.Symlink(w.outside+"/secret", w.base+"/.metald.lock"))
	if lock, err := jail.Lock(w.base); err == nil {
		lock.Close()
		t.Error("a link was locked")
	}
	must(t, os.Chmod(w.files, 0o777))
	if lock, err := jail.Lock(w.files); err == nil {
		lock.Close()
		t.Error("a directory of everybody's was locked")
	}
}

func TestCheckBase(t *testing.T) {
	w := newWorld(t)
	for flag, want := range map[uintptr]string{
		0: "", 4: "nodev", 8: "noexec", 1: "read-only", // MS_NODEV, MS_NOEXEC, MS_RDONLY
	} {
		path := fmt.Sprintf("%s/fs-%d", w.base, flag)
		tmpfs(t, path, flag)
		err := jail.CheckBase(path)
		if want == "" {
			must(t, err)
		} else if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("mounted %s: %v", want, err)
		}
	}
	if err := jail.CheckBase(w.base + "/none"); err == nil {
		t.Error("no error for no base")
	}
}
