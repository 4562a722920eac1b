package bench

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/unkeyed/unkey/go/deploy/metald/internal/host/kvm"
)

// rawUID is the first of the users that a rawFirecracker's VMMs run as.
const rawUID = 720_000

// rawFirecracker is the floor of Firecracker's benchmarks: a program that starts VMMs and does only that. It does what
// no start can leave out, and nothing beyond:
//
//   - a directory of the VM with the FIFOs of metrics and console, open for reading, and a hard link to the kernel;
//   - in a jail also the cgroup with its limits and the namespaces, and the jailer;
//   - the wait for the socket by inotify, the API calls that metald makes, over one connection, without net/http's
//     client; and
//   - one durable write of a record's size.
//
// Where it is metered, it also has the metrics of guests that run written and read every 100 ms. It has no API, no start gate, no check of who it talks to, no limit, and watches nothing.
type rawFirecracker struct {
	b           *testing.B
	firecracker string
	jailer      string // "" starts Firecracker itself
	kernel      string
	base        string   // of the VMs' directories, on the file system of the kernel
	groups      []string // cgroups of metald's, below which each jail has one
	log         *os.File // takes the durable writes
	kvm         uint32   // the group of /dev/kvm
	ready       func(dir string, dial func() (net.Conn, error)) net.Conn
	metered     bool // has the guests' metrics written and read as often as metald does
	n           atomic.Int64
}

// rawMachine is one VMM of a rawFirecracker.
type rawMachine struct {
	dir    string
	pid    int
	groups []string
	conn   net.Conn
	lines  *bufio.Reader
	pipes  []*os.File
	stop   chan struct{} // ends the metering
	meter  sync.WaitGroup
}

// newRawFirecracker makes a floor beside a metald whose VMs' processes are like the one of pid.
func newRawFirecracker(b *testing.B, site firecrackerSite, pid string) *rawFirecracker {
	b.Helper()
	base, err := os.MkdirTemp("", "raw")
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { os.RemoveAll(base) })
	r := &rawFirecracker{b: b, firecracker: site.firecracker, kernel: site.kernel, base: base, ready: byInotify(b)}
	r.must(os.Chmod(base, 0o711))
	r.log, err = os.Create(filepath.Join(base, "log"))
	r.must(err)
	b.Cleanup(func() { r.log.Close() })
	_, err = r.log.Write(make([]byte, 1<<20)) // so that no write makes it longer
	r.must(err)
	if gid, needed := kvm.Group(); needed {
		r.kvm = gid
	}
	if site.jailed {
		r.jailer = site.jailer
		r.groups = groupsOf(b, pid)
	}
	return r
}

// groupsOf are the parents of the cgroups that metald put a process into.
func groupsOf(b *testing.B, pid string) []string {
	text, err := os.ReadFile("/proc/" + pid + "/cgroup")
	if err != nil {
		b.Fatal(err)
	}
	var groups []string
	for line := range strings.Lines(string(text)) {
		parts := strings.SplitN(strings.TrimSpace(line), ":", 3)
		if strings.Contains(parts[2], "/metald/") {
			groups = append(groups, filepath.Dir(filepath.Join("/sys/fs/cgroup", parts[1], parts[2])))
		}
	}
	if len(groups) == 0 {
		b.Fatalf("process %s is in no cgroup of metald's:\n%s", pid, text)
	}
	return groups
}

// start starts a VMM and its guest, and returns when the VMM says that it runs.
func (r *rawFirecracker) start() *rawMachine {
	n := r.n.Add(1)
	m := &rawMachine{}
	id := fmt.Sprintf("raw-%d", n)
	uid := rawUID + int(n%1000)
	root := r.makeRoot(m, id, uid)
	r.makeGroups(m, id)
	r.spawn(m, id, uid, root)
	m.conn = r.ready(filepath.Join(root, "run"), func() (net.Conn, error) {
		return net.Dial("unix", filepath.Join(root, "run", "firecracker.socket"))
	})
	m.lines = bufio.NewReader(m.conn)
	r.drive(m)
	_, err := r.log.WriteAt(make([]byte, 1024), n%1000*1024)
	r.must(err)
	r.must(unix.Fdatasync(int(r.log.Fd())))
	if r.metered {
		m.stop = make(chan struct{})
		m.meter.Go(func() { r.keepTime(m) })
	}
	return m
}

// keepTime has the metrics written, and takes them from the FIFO.
func (r *rawFirecracker) keepTime(m *rawMachine) {
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for buf := make([]byte, 64<<10); ; {
		select {
		case <-m.stop:
			return
		case <-tick.C:
		}
		r.call(m, "PUT", "/actions", `{"action_type":"FlushMetrics"}`)
		_, err := m.pipes[0].Read(buf)
		r.must(err)
	}
}

func (r *rawFirecracker) makeRoot(m *rawMachine, id string, uid int) (root string) {
	if r.jailer == "" {
		m.dir = filepath.Join(r.base, id)
	} else {
		m.dir = filepath.Join(r.base, "firecracker", id)
		if err := os.Mkdir(filepath.Dir(m.dir), 0o700); err != nil && !errors.Is(err, os.ErrExist) {
			r.must(err)
		}
	}
	root = filepath.Join(m.dir, "root")
	r.must(os.Mkdir(m.dir, 0o711))
	for _, dir := range []string{root, filepath.Join(root, "run")} {
		r.must(os.Mkdir(dir, 0o700))
		r.must(os.Chown(dir, uid, uid))
	}
	for _, name := range []string{"metrics.fifo", "console.fifo"} {
		path := filepath.Join(root, name)
		r.must(unix.Mkfifo(path, 0o600))
		r.must(os.Chown(path, uid, uid))
		pipe, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK, 0)
		r.must(err)
		m.pipes = append(m.pipes, pipe)
	}
	r.must(os.Link(r.kernel, filepath.Join(root, "kernel")))
	return root
}

func (r *rawFirecracker) makeGroups(m *rawMachine, id string) {
	for _, parent := range r.groups {
		dir := filepath.Join(parent, id)
		r.must(os.Mkdir(dir, 0o755))
		m.groups = append(m.groups, dir)
		for _, limit := range [][2]string{
			{"memory.max", "203423744"}, {"memory.swap.max", "0"}, {"memory.limit_in_bytes", "203423744"},
			{"memory.memsw.limit_in_bytes", "203423744"}, {"pids.max", "33"},
		} {
			err := writeGroup(dir, limit[0], limit[1])
			if !errors.Is(err, os.ErrNotExist) {
				r.must(err)
			}
		}
	}
}

func writeGroup(dir, file, value string) error {
	fd, err := unix.Open(filepath.Join(dir, file), unix.O_WRONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	_, err = unix.Write(fd, []byte(value))
	return err
}

func (r *rawFirecracker) spawn(m *rawMachine, id string, uid int, root string) {
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	r.must(err)
	defer null.Close()
	argv := []string{r.firecracker, "--id", id, "--api-sock", "run/firecracker.socket", "--level", "Warning"}
	attr := &syscall.ProcAttr{Files: []uintptr{null.Fd(), null.Fd(), null.Fd()}, Sys: &syscall.SysProcAttr{Setsid: true}}
	if r.jailer == "" {
		attr.Dir = root
		gid := uint32(uid)
		if r.kvm != 0 {
			gid = r.kvm
		}
		attr.Sys.Credential = &syscall.Credential{Uid: uint32(uid), Gid: gid}
	} else {
		argv = []string{r.jailer, "--id", id, "--exec-file", r.firecracker, "--uid", strconv.Itoa(uid), "--gid", strconv.Itoa(uid),
			"--chroot-base-dir", r.base, "--resource-limit", "no-file=2048",
			"--", "--api-sock", "/run/firecracker.socket", "--level", "Warning"}
		attr.Dir = "/"
		attr.Sys.Cloneflags = syscall.CLONE_NEWPID | syscall.CLONE_NEWNET
	}
	m.pid, err = syscall.ForkExec(argv[0], argv, attr)
	r.must(err)
	for _, dir := range m.groups {
		r.must(writeGroup(dir, "cgroup.procs", strconv.Itoa(m.pid)))
	}
}

// byInotify connects as soon as there is a socket.
func byInotify(b *testing.B) func(dir string, dial func() (net.Conn, error)) net.Conn {
	return func(dir string, dial func() (net.Conn, error)) net.Conn {
		fd, err := unix.InotifyInit1(unix.IN_NONBLOCK | unix.IN_CLOEXEC)
		if err != nil {
			b.Fatal(err)
		}
		events := os.NewFile(uintptr(fd), "inotify")
		defer func() { go events.Close() }() // it takes the kernel some 10 ms, for which no start has to wait
		if _, err := unix.InotifyAddWatch(fd, dir, unix.IN_CREATE); err != nil {
			b.Fatal(err)
		}
		for buf := make([]byte, 4096); ; {
			conn, err := dial()
			switch {
			case err == nil:
				return conn
			case errors.Is(err, syscall.ECONNREFUSED): // bound, and about to listen
				_ = unix.Nanosleep(&unix.Timespec{Nsec: 50_000}, nil)
			case errors.Is(err, os.ErrNotExist):
				if _, err := events.Read(buf); err != nil {
					b.Fatal(err)
				}
			default:
				b.Fatal(err)
			}
		}
	}
}

// byTicker tries to connect every 100 ms.
func byTicker(b *testing.B) func(dir string, dial func() (net.Conn, error)) net.Conn {
	return func(_ string, dial func() (net.Conn, error)) net.Conn {
		tick := time.NewTicker(100 * time.Millisecond)
		defer tick.Stop()
		for range 300 {
			<-tick.C
			if conn, err := dial(); err == nil {
				return conn
			}
		}
		b.Fatal("a raw VMM did not make its socket")
		return nil
	}
}

// drive makes the calls of a create and a boot.
func (r *rawFirecracker) drive(m *rawMachine) {
	at := ""
	if r.jailer != "" {
		at = "/"
	}
	r.call(m, "GET", "/", "")
	for _, put := range [][2]string{
		{"/serial", fmt.Sprintf(`{"serial_out_path":%q}`, at+"console.fifo")},
		{"/metrics", fmt.Sprintf(`{"metrics_path":%q}`, at+"metrics.fifo")},
		{"/machine-config", `{"vcpu_count":1,"mem_size_mib":128}`},
		{"/boot-source", fmt.Sprintf(`{"kernel_image_path":%q,"boot_args":"console=ttyS0 reboot=k panic=1 pci=off"}`, at+"kernel")},
		{"/entropy", `{}`},
	} {
		r.call(m, "PUT", put[0], put[1])
	}
	r.call(m, "PUT", "/actions", `{"action_type":"InstanceStart"}`)
	if state := r.call(m, "GET", "/", ""); !bytes.Contains(state, []byte(`"Running"`)) {
		r.b.Fatalf("raw VMM is not running: %s", state)
	}
}

func (r *rawFirecracker) call(m *rawMachine, method, path, body string) []byte {
	head := method + " " + path + " HTTP/1.1\r\nHost: localhost\r\n"
	if body != "" {
		head += "Content-Type: application/json\r\nContent-Length: " + strconv.Itoa(len(body)) + "\r\n"
	}
	_, err := io.WriteString(m.conn, head+"\r\n"+body)
	r.must(err)
	resp, err := http.ReadResponse(m.lines, nil)
	r.must(err)
	answer, err := io.ReadAll(resp.Body)
	r.must(err)
	if resp.StatusCode/100 != 2 {
		r.b.Fatalf("%s %s: %s %s", method, path, resp.Status, answer)
	}
	return answer
}

// end kills the VMM, waits for it and removes what it had.
func (r *rawFirecracker) end(m *rawMachine) {
	if m.stop != nil {
		close(m.stop)
		m.meter.Wait()
	}
	r.must(syscall.Kill(m.pid, syscall.SIGKILL))
	_, err := syscall.Wait4(m.pid, nil, 0, nil)
	r.must(err)
	m.conn.Close()
	for _, pipe := range m.pipes {
		pipe.Close()
	}
	for _, dir := range m.groups {
		for i := 0; ; i++ { // a cgroup notices an end a moment later
			if err = unix.Rmdir(dir); err == nil || i == 1000 {
				break
			}
			time.Sleep(time.Millisecond)
		}
		r.must(err)
	}
	r.must(os.RemoveAll(m.dir))
}

func (r *rawFirecracker) must(err error) {
	if err != nil {
		r.b.Helper()
		r.b.Fatal(err)
	}
}
