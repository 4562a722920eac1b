package jail_test

import (
	"errors"
	"io"
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/unkeyed/unkey/go/deploy/metald/internal/host/jail"
)

const metrics = "metrics.fifo"

var past = time.Unix(1, 0)

func TestFIFO(t *testing.T) {
	w := newWorld(t)
	must(t, w.FIFO(metrics))
	path := w.root + "/" + metrics
	if st := stat(t, path); st.Mode != unix.S_IFIFO|0o600 || ownerOf(t, path) != vmm {
		t.Errorf("the FIFO has mode %o and belongs to %d", st.Mode, st.Uid)
	}
	f, err := w.OpenFIFO(metrics) // there is no writer, and it does not wait for one
	must(t, err)
	defer f.Close()
	if size, err := jail.SetPipeSize(f); err != nil || size != jail.PipeSize {
		t.Errorf("the pipe has room for %d bytes, %v", size, err)
	}
	// As the VMM opens it.
	line := "{}\n"
	must(t, w.asVMM(t, func(root int) error {
		fd, err := unix.Openat(root, metrics, unix.O_RDWR|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
		if err != nil {
			return err
		}
		_, err = unix.Write(fd, []byte(line))
		return errors.Join(err, unix.Close(fd))
	}))
	got := make([]byte, len(line))
	if _, err := io.ReadFull(f, got); err != nil || string(got) != line {
		t.Errorf("read %q, %v", got, err)
	}
}

// A read of a FIFO that is silent ends when it is told to: nothing hangs in the kernel.
func TestAReadOfAFIFOHasADeadline(t *testing.T) {
	w := newWorld(t)
	must(t, w.FIFO(metrics))
	f, err := w.OpenFIFO(metrics)
	must(t, err)
	defer f.Close()
	vmm, err := os.OpenFile(w.root+"/"+metrics, os.O_RDWR, 0)
	must(t, err)
	defer vmm.Close()
	must(t, f.SetReadDeadline(past))
	_, err = f.Read(make([]byte, 1))
	wantErr(t, err, os.ErrDeadlineExceeded)
}

// Whatever is there already, in the place of a FIFO that is to be made, is not used and not touched.
func TestFIFOThatIsThere(t *testing.T) {
	for name, plant := range map[string]func(t *testing.T, w world, path string){
		"a FIFO":              func(t *testing.T, w world, path string) { must(t, unix.Mkfifo(path, 0o666)) },
		"a file":              func(t *testing.T, w world, path string) { write(t, path, "") },
		"a directory":         func(t *testing.T, w world, path string) { mkdir(t, path) },
		"a link to nowhere":   func(t *testing.T, w world, _ string) { w.plant(t, w.outside+"/new", metrics) },
		"a link to the world": func(t *testing.T, w world, _ string) { w.plant(t, w.outside+"/secret", metrics) },
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			path := w.root + "/" + metrics
			plant(t, w, path)
			before := stat(t, path)
			wantErr(t, w.FIFO(metrics), os.ErrExist)
			if now := stat(t, path); now.Ino != before.Ino || now.Uid != before.Uid || now.Mode != before.Mode {
				t.Error("what was there was changed")
			}
			wantNothingAt(t, w.outside+"/new")
		})
	}
}

// A VMM puts something in the place of its FIFO.
func TestOpenFIFORefuses(t *testing.T) {
	for name, plant := range map[string]func(t *testing.T, w world, path string){
		"a link to a FIFO":   func(t *testing.T, w world, _ string) { w.plant(t, w.outside+"/fifo", metrics) },
		"a link to a secret": func(t *testing.T, w world, _ string) { w.plant(t, w.outside+"/secret", metrics) },
		"a link in the jail": func(t *testing.T, w world, _ string) {
			must(t, w.FIFO("other"))
			w.plant(t, "other", metrics)
		},
		"a file":      func(t *testing.T, w world, path string) { write(t, path, "{}") },
		"a directory": func(t *testing.T, w world, path string) { mkdir(t, path) },
		"a socket":    func(t *testing.T, w world, path string) { listen(t, path) },
		"a device": func(t *testing.T, w world, path string) {
			must(t, unix.Mknod(path, unix.S_IFCHR|0o666, int(unix.Mkdev(1, 5))))
		},
		"a hard link to a secret": func(t *testing.T, w world, path string) { must(t, os.Link(w.outside+"/secret", path)) },
		"somebody else's FIFO":    func(t *testing.T, w world, path string) { must(t, os.Link(w.outside+"/fifo", path)) },
		"nothing":                 func(*testing.T, world, string) {},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			must(t, unix.Mkfifo(w.outside+"/fifo", 0o600))
			path := w.root + "/" + metrics
			plant(t, w, path)
			if !strings.HasPrefix(name, "a hard") && !strings.HasPrefix(name, "somebody") && name != "nothing" {
				must(t, os.Lchown(path, int(vmm.UID), int(vmm.GID))) // so that its owner does not give it away
			}
			f, err := w.OpenFIFO(metrics)
			if err == nil {
				f.Close()
				t.Fatal("it was opened")
			}
			if errors.Is(err, os.ErrNotExist) != (name == "nothing") {
				t.Error(err)
			}
		})
	}
}

// Beyond the host's limit for one user a pipe is smaller, and that is said.
func TestSetPipeSizeWithinTheLimits(t *testing.T) {
	w := newWorld(t)
	var pipes [2 * 128]int
	n, smallest := 0, jail.PipeSize
	err := w.asVMM(t, func(int) error {
		for ; n < len(pipes) && smallest == jail.PipeSize; n += 2 {
			if err := unix.Pipe2(pipes[n:n+2], unix.O_CLOEXEC|unix.O_NONBLOCK); err != nil {
				return err
			}
			fd, err := unix.FcntlInt(uintptr(pipes[n]), unix.F_DUPFD_CLOEXEC, 0)
			if err != nil {
				return err
			}
			f := os.NewFile(uintptr(fd), "pipe")
			size, err := jail.SetPipeSize(f)
			smallest = min(smallest, size)
			if err = errors.Join(err, f.Close()); err != nil {
				return err
			}
		}
		return nil
	})
	for _, fd := range pipes[:n] {
		unix.Close(fd)
	}
	if err != nil || smallest <= 0 {
		t.Errorf("the smallest pipe has room for %d bytes, %v", smallest, err)
	}
	if smallest == jail.PipeSize {
		t.Skip("this host has no limit for 128 pipes of one user")
	}
	t.Logf("pipe %d has room for %d bytes", n/2, smallest)
}
