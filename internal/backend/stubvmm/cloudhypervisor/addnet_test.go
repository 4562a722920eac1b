package cloudhypervisor_test

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// tap is a tap device for as long as it is open.
func tap(t *testing.T) *os.File {
	t.Helper()
	fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Skipf("no tap devices here: %v", err)
	}
	f := os.NewFile(uintptr(fd), "tap")
	t.Cleanup(func() { f.Close() })
	req, err := unix.NewIfreq("stubch%d")
	must(t, err)
	req.SetUint16(unix.IFF_TAP | unix.IFF_NO_PI | unix.IFF_VNET_HDR)
	if err := unix.IoctlIfreq(fd, unix.TUNSETIFF, req); err != nil {
		t.Skipf("no leave to make a tap device: %v", err)
	}
	return f
}

// addNet sends an interface with an open file, and returns the first line of the answer.
func (p *process) addNet(t *testing.T, id string, file *os.File) string {
	t.Helper()
	conn, err := net.DialUnix("unix", nil, &net.UnixAddr{Name: filepath.Join(p.dir, "api"), Net: "unix"})
	must(t, err)
	defer conn.Close()
	body := fmt.Sprintf(`{"id":%q,"mac":"02:00:00:00:00:01"}`, id)
	text := fmt.Sprintf("PUT /api/v1/vm.add-net HTTP/1.1\r\nContent-Length: %d\r\n\r\n%s", len(body), body)
	_, _, err = conn.WriteMsgUnix([]byte(text), unix.UnixRights(int(file.Fd())), nil)
	must(t, err)
	answer := make([]byte, 4096)
	n, err := conn.Read(answer)
	must(t, err)
	line, _, _ := strings.Cut(string(answer[:n]), "\r\n")
	return strings.TrimSpace(line)
}

func TestOpenTap(t *testing.T) {
	each(t, func(t *testing.T, exe string) {
		f := tap(t)
		p := start(t, exe)
		p.wants(t, `PUT /vm.create {"payload":{"kernel":"kernel"}}`, "204")
		if got := p.addNet(t, "n", f); got != "HTTP/1.1 204" {
			t.Errorf("it answers %s", got)
		}
		p.wants(t, "PUT /vm.boot", "204", "PUT /vm.reboot", "204")
		if got := p.ask(t, "GET /vm.counters"); !strings.Contains(got, `"rx_bytes":0`) {
			t.Errorf("counters: %s", got)
		}
	})
}

// TestNoTap: an open file that is no tap device is found at the boot.
func TestNoTap(t *testing.T) {
	each(t, func(t *testing.T, exe string) {
		f, err := os.Open("/dev/null")
		must(t, err)
		defer f.Close()
		p := start(t, exe)
		p.wants(t, `PUT /vm.create {"payload":{"kernel":"kernel"}}`, "204")
		if got := p.addNet(t, "n", f); got != "HTTP/1.1 204" {
			t.Errorf("it answers %s", got)
		}
		if got := p.ask(t, "PUT /vm.boot"); !strings.HasPrefix(got, `500 ["Error from API","The VM could not boot","Error from device manager","Cannot create virtio-net device"`) {
			t.Errorf("it boots: %s", got)
		}
	})
}
