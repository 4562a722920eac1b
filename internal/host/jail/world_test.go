package jail_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"github.com/unkeyed/unkey/go/deploy/metald/internal/host/jail"
)

const limit = 20 * time.Second // for a thing that takes milliseconds on an idle machine

func TestMain(m *testing.M) {
	if os.Getenv(awaitEnv) != "" {
		playAwait()
	}
	openFiles() // the first use of the poller opens files that stay
	before := len(openFiles())
	code := m.Run()
	if after := openFiles(); code == 0 && len(after) > before {
		fmt.Fprintf(os.Stderr, "%d files are open, %d before the tests: %v\n", len(after), before, after)
		code = 1
	}
	if err := goleak.Find(); code == 0 && err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.Exit(code)
}

// openFiles lists what this process has open.
func openFiles() []string {
	r, w, err := os.Pipe()
	if err != nil {
		panic(err)
	}
	r.Close()
	w.Close()
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		panic(err)
	}
	var list []string
	for _, e := range entries {
		to, _ := os.Readlink("/proc/self/fd/" + e.Name())
		list = append(list, e.Name()+" "+to)
	}
	return list
}

// vmm is whom the VMM of the tests runs as.
var vmm = jail.Owner{UID: 54321, GID: 54322}

// world is a base with one jail, and what lies outside of it.
type world struct {
	*jail.Jail
	base, dir, root string
	outside         string // with a file "secret", on the file system of the jail
	files           string // where sources are
}

func newWorld(t testing.TB) world { return newWorldOf(t, "vm-1") }

func newWorldOf(t testing.TB, id string) world {
	t.Helper()
	needRoot(t)
	top, err := os.MkdirTemp("", "m")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(top); err != nil {
			t.Error(err)
		}
	})
	w := world{base: top + "/base", outside: top + "/outside", files: top + "/files"}
	w.dir = filepath.Join(w.base, "firecracker", id)
	w.root = filepath.Join(w.dir, "root")
	for _, d := range []string{w.base, w.outside, w.files} {
		mkdir(t, d)
	}
	write(t, w.outside+"/secret", "secret")
	if w.Jail, err = jail.Make(w.root, vmm); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		w.Close()
		if got := read(t, w.outside+"/secret"); got != "secret" {
			t.Errorf("what lies outside is now %q", got)
		}
		if o := ownerOf(t, w.outside+"/secret"); o != (jail.Owner{}) {
			t.Errorf("what lies outside belongs to %v", o)
		}
	})
	return w
}

func needRoot(t testing.TB) {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("only root gives files to the user of a VMM")
	}
}

func mkdir(t testing.TB, path string) {
	t.Helper()
	must(t, os.MkdirAll(path, 0o755))
}

func write(t testing.TB, path, content string) {
	t.Helper()
	must(t, os.WriteFile(path, []byte(content), 0o644))
}

// file makes a source with an owner and a mode.
func (w world) file(t testing.TB, name, content string, owner jail.Owner, mode uint32) string {
	t.Helper()
	path := filepath.Join(w.files, name)
	write(t, path, content)
	must(t, os.Chown(path, int(owner.UID), int(owner.GID)))
	must(t, unix.Chmod(path, mode))
	return path
}

func read(t testing.TB, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	must(t, err)
	return string(b)
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func stat(t testing.TB, path string) unix.Stat_t {
	t.Helper()
	var st unix.Stat_t
	must(t, unix.Lstat(path, &st))
	return st
}

func ownerOf(t testing.TB, path string) jail.Owner {
	t.Helper()
	st := stat(t, path)
	return jail.Owner{UID: st.Uid, GID: st.Gid}
}

func wantErr(t testing.TB, err, want error) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Errorf("the error is %v, want %v", err, want)
	}
}

func wantNothingAt(t testing.TB, path string) {
	t.Helper()
	if _, err := os.Lstat(path); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("%s is there: %v", path, err)
	}
}

// plant makes a link in the jail that belongs to the VMM's user, as a VMM that was taken over would.
func (w world) plant(t testing.TB, target, name string) {
	t.Helper()
	path := filepath.Join(w.root, name)
	must(t, os.Symlink(target, path))
	must(t, os.Lchown(path, int(vmm.UID), int(vmm.GID)))
}

// asVMM runs do as the VMM's user, on a thread that is thrown away. It gets the jail's root: what leads there is
// closed to the user, as it is to a VMM, which has the jail for its root.
func (w world) asVMM(t testing.TB, do func(root int) error) error {
	t.Helper()
	d, err := os.Open(w.root)
	must(t, err)
	defer d.Close()
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // and never unlocked: the thread ends with this goroutine
		done <- errors.Join(
			become(unix.SYS_SETGROUPS, 0, 0, 0),
			become(unix.SYS_SETRESGID, uintptr(vmm.GID), uintptr(vmm.GID), uintptr(vmm.GID)),
			become(unix.SYS_SETRESUID, uintptr(vmm.UID), uintptr(vmm.UID), uintptr(vmm.UID)),
			do(int(d.Fd())))
	}()
	return <-done
}

// become changes who this one thread is.
func become(call, a, b, c uintptr) error {
	if _, _, errno := syscall.RawSyscall(call, a, b, c); errno != 0 {
		return errno
	}
	return nil
}

// readAsVMM reads a file in the jail as the VMM's user, which it may open with flags.
func (w world) readAsVMM(t testing.TB, name string, flags int) (string, error) {
	t.Helper()
	var content string
	err := w.asVMM(t, func(root int) error {
		fd, err := unix.Openat(root, name, flags|unix.O_CLOEXEC, 0)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		buf := make([]byte, 1<<10)
		n, err := unix.Pread(fd, buf, 0)
		content = string(buf[:max(n, 0)])
		return err
	})
	return content, err
}

// writeAsVMM writes into a file in the jail as the VMM's user.
func (w world) writeAsVMM(t testing.TB, name, content string) error {
	t.Helper()
	return w.asVMM(t, func(root int) error {
		fd, err := unix.Openat(root, name, unix.O_RDWR|unix.O_CLOEXEC, 0)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		_, err = unix.Pwrite(fd, []byte(content), 0)
		return err
	})
}

// tmpfs mounts another file system.
func tmpfs(t testing.TB, path string, flags uintptr) {
	t.Helper()
	mkdir(t, path)
	err := unix.Mount("none", path, "tmpfs", flags, "mode=0755")
	if errors.Is(err, unix.EPERM) || errors.Is(err, unix.EACCES) {
		t.Skipf("this test may not mount: %v", err)
	}
	must(t, err)
	t.Cleanup(func() { must(t, unix.Unmount(path, unix.MNT_DETACH)) })
}

// mountsBelow lists mounts by the kernel's list, whatever the code under test makes of it.
func mountsBelow(t testing.TB, path string) []string {
	t.Helper()
	var list []string
	for line := range strings.SplitSeq(read(t, "/proc/self/mountinfo"), "\n") {
		if strings.Contains(line, " "+path+"/") {
			list = append(list, line)
		}
	}
	return list
}
