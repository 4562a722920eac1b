package conformance

import (
	"bytes"
	"cmp"
	"fmt"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/unkeyed/unkey/go/deploy/metald/internal/vm"
)

// witness keeps what the suite saw of the VMM that it ran on.
type witness struct {
	mu  sync.Mutex
	vmm string
}

func (w *witness) note(info vm.Info) {
	if w == nil {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.vmm = strings.TrimSpace(info.VMM + " " + info.VMMVersion)
}

// report is a line that says on what, where and when the test called name ran.
func (w *witness) report(name string) string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return fmt.Sprintf("conformance of %s: VMM %s; host %s; date %s",
		name, cmp.Or(w.vmm, "unknown"), kernel(), time.Now().UTC().Format(time.DateOnly))
}

// kernel is the host's, without what its builder calls it: "Linux 6.1.0".
func kernel() string {
	var name unix.Utsname
	if err := unix.Uname(&name); err != nil {
		return "unknown"
	}
	text := func(b []byte) string { return string(b[:max(bytes.IndexByte(b, 0), 0)]) }
	release, _, _ := strings.Cut(text(name.Release[:]), "-")
	return text(name.Sysname[:]) + " " + release
}
