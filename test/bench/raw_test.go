package bench

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"connectrpc.com/connect"
	"golang.org/x/sys/unix"

	pb "github.com/unkeyed/unkey/go/deploy/metald/gen/vmprovisioner/v1"
	"github.com/unkeyed/unkey/go/deploy/metald/test/harness"
)

// rawDriver starts VMMs as a program would that does only that: no API, no record, no gate, no watching. It gives
// them the command line that metald gives, read from a VMM of metald's, and drives them over QMP.
type rawDriver struct {
	b       *testing.B
	argv    []string
	kernel  string
	runtime string // of the VMMs' directories, on the file system that metald has its sockets on
	disks   string // directory of its copies of disk, on the file system of metald's
	disk    string // template that each VM gets a copy of; "" for none
	n       int
}

// newRaw learns the command line from a VM that d makes of request.
func newRaw(b *testing.B, d *harness.Daemon, runtime string, request *pb.CreateVmRequest, disk string) *rawDriver {
	b.Helper()
	created, err := d.Client.CreateVm(context.Background(), connect.NewRequest(request))
	if err != nil {
		b.Fatal(err)
	}
	id := created.Msg.VmId
	info, err := d.Client.GetVmInfo(context.Background(), connect.NewRequest(&pb.GetVmInfoRequest{VmId: id}))
	if err != nil {
		b.Fatal(err)
	}
	cmdline, err := os.ReadFile("/proc/" + info.Msg.BackendInfo["pid"] + "/cmdline")
	if err != nil {
		b.Fatal(err)
	}
	deleteVM(b, d, id)
	return &rawDriver{b: b, disks: b.TempDir(), argv: strings.Split(strings.TrimSuffix(string(cmdline), "\x00"), "\x00"),
		kernel: request.Config.Boot.KernelPath, runtime: runtime, disk: disk}
}

// rawVM is one VMM of a rawDriver.
type rawVM struct {
	dir     string
	disk    string // "" for none
	pid     int
	qmp     net.Conn
	console net.Conn
	lines   *bufio.Reader
}

// start starts a VMM and its guest, and returns when the VMM says that it runs.
func (r *rawDriver) start() *rawVM {
	r.n++
	name := fmt.Sprintf("raw-%d", r.n)
	v := &rawVM{dir: filepath.Join(r.runtime, name)}
	r.must(os.Mkdir(v.dir, 0o700))
	files := []*os.File{r.listen(v.dir, "qmp"), r.listen(v.dir, "stats"), r.listen(v.dir, "console"), r.open(r.kernel, os.O_RDONLY)}
	if r.disk != "" {
		v.disk = filepath.Join(r.disks, name)
		files = append(files, r.copyDisk(v.disk))
	}
	null := r.open(os.DevNull, os.O_RDWR)
	fds := []uintptr{null.Fd(), null.Fd(), null.Fd(), null.Fd()}
	for _, f := range files {
		fds = append(fds, f.Fd())
	}
	pid, err := syscall.ForkExec(r.argv[0], r.argv, &syscall.ProcAttr{Dir: v.dir, Files: fds, Sys: &syscall.SysProcAttr{Setsid: true}})
	r.must(err)
	for _, f := range append(files, null) {
		r.must(f.Close())
	}
	v.pid = pid
	v.qmp = r.dial(v.dir, "qmp")
	v.console = r.dial(v.dir, "console")
	v.lines = bufio.NewReader(v.qmp)
	r.read(v) // greeting
	r.call(v, "qmp_capabilities")
	r.call(v, "query-status")
	r.call(v, "cont")
	if status := r.call(v, "query-status"); !strings.Contains(status, `"running"`) {
		r.b.Fatalf("raw VMM is not running: %s", status)
	}
	return v
}

// end kills the VMM, waits for it and removes what it had.
func (r *rawDriver) end(v *rawVM) {
	r.must(syscall.Kill(v.pid, syscall.SIGKILL))
	_, err := syscall.Wait4(v.pid, nil, 0, nil)
	r.must(err)
	r.must(os.RemoveAll(v.dir))
	if v.disk != "" {
		r.must(os.Remove(v.disk))
	}
	v.qmp.Close()
	v.console.Close()
}

// awaitConsole reads the console until text has come.
func (r *rawDriver) awaitConsole(v *rawVM, text string) {
	var seen strings.Builder
	buf := make([]byte, 4096)
	for !strings.Contains(seen.String(), text) {
		n, err := v.console.Read(buf)
		r.must(err)
		seen.Write(buf[:n])
	}
}

// call sends a command and returns the line of its reply; events are passed over.
func (r *rawDriver) call(v *rawVM, command string) string {
	_, err := fmt.Fprintf(v.qmp, "{\"execute\":%q}\n", command)
	r.must(err)
	for {
		line := r.read(v)
		var reply struct {
			Return json.RawMessage
			Error  json.RawMessage
		}
		r.must(json.Unmarshal([]byte(line), &reply))
		if reply.Error != nil {
			r.b.Fatalf("%s: %s", command, line)
		}
		if reply.Return != nil {
			return line
		}
	}
}

func (r *rawDriver) read(v *rawVM) string {
	line, err := v.lines.ReadString('\n')
	r.must(err)
	return line
}

func (r *rawDriver) listen(dir, name string) *os.File {
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: filepath.Join(dir, name), Net: "unix"})
	r.must(err)
	l.SetUnlinkOnClose(false)
	f, err := l.File()
	r.must(err)
	r.must(l.Close())
	return f
}

func (r *rawDriver) dial(dir, name string) net.Conn {
	c, err := net.Dial("unix", filepath.Join(dir, name))
	r.must(err)
	return c
}

func (r *rawDriver) open(path string, flags int) *os.File {
	f, err := os.OpenFile(path, flags, 0)
	r.must(err)
	return f
}

// copyDisk makes a durable copy of the template, by reflink where the filesystem can.
func (r *rawDriver) copyDisk(path string) *os.File {
	in := r.open(r.disk, os.O_RDONLY)
	defer in.Close()
	out, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	r.must(err)
	if unix.IoctlFileClone(int(out.Fd()), int(in.Fd())) != nil {
		info, err := in.Stat()
		r.must(err)
		_, err = unix.CopyFileRange(int(in.Fd()), nil, int(out.Fd()), nil, int(info.Size()), 0)
		r.must(err)
	}
	r.must(out.Sync())
	return out
}

func (r *rawDriver) must(err error) {
	if err != nil {
		r.b.Helper()
		r.b.Fatal(err)
	}
}
