package kvm

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/unkeyed/unkey/go/deploy/metald/internal/host/boot"
)

// maxOutput bounds what is read of a trial guest's console, in bytes.
const maxOutput = 1 << 20

// markers are what a kernel without disk and initrd says when it has come up: it looks for init and gives up.
var markers = [][]byte{
	[]byte("VFS: Cannot open root device"), []byte("VFS: Unable to mount root fs"), []byte("Run /init as init process"),
	[]byte("Kernel panic - not syncing: VFS"), []byte("Kernel panic - not syncing: No working init"),
}

// Screen looks in what a trial guest says for the sign that it has come up. It is safe for concurrent use.
type Screen struct {
	found func()

	mu   sync.Mutex
	text []byte
	seen string
}

// Write takes what the guest says.
func (w *Screen) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.seen != "" || len(w.text) > maxOutput {
		return len(p), nil
	}
	from := max(0, len(w.text)-64) // longer than any marker
	w.text = append(w.text, p...)
	for _, m := range markers {
		if bytes.Contains(w.text[from:], m) {
			w.seen = string(m)
			w.found()
		}
	}
	return len(p), nil
}

// Marker returns the sign that came, "" before.
func (w *Screen) Marker() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.seen
}

// NewScreen returns a Screen that calls found when the sign comes.
func NewScreen(found func()) *Screen { return &Screen{found: found} }

// result is the content of the file that keeps a verdict, with everything whose change makes it void.
type result struct {
	Key     Trial   `json:"key"`
	Verdict Verdict `json:"verdict"`
}

// Trial is under which conditions a trial was made.
type Trial struct {
	BootID      string `json:"bootId"`
	HostKernel  string `json:"hostKernel"`
	VMM         string `json:"vmm"`
	GuestKernel string `json:"guestKernel"`
}

// TrialOf is a trial on this boot of the host, by a VMM and with a kernel.
func TrialOf(binary string, kernel *os.File) (Trial, error) {
	bootID, err := boot.ID()
	if err != nil {
		return Trial{}, err
	}
	var host unix.Utsname
	if err := unix.Uname(&host); err != nil {
		return Trial{}, os.NewSyscallError("uname", err)
	}
	vmm, err := os.Stat(binary)
	if err != nil {
		return Trial{}, err
	}
	guest, err := kernel.Stat()
	if err != nil {
		return Trial{}, err
	}
	return Trial{
		BootID: bootID, HostKernel: unix.ByteSliceToString(host.Release[:]),
		VMM: stamp(binary, vmm), GuestKernel: stamp(kernel.Name(), guest),
	}, nil
}

func stamp(path string, info os.FileInfo) string {
	return fmt.Sprintf("%s %d bytes %s", path, info.Size(), info.ModTime().UTC().Format(time.RFC3339Nano))
}

// Recall reads the verdict of an earlier trial under the same conditions.
func Recall(path string, key Trial) (Verdict, bool) {
	b, err := os.ReadFile(path)
	if err != nil {
		return Verdict{}, false
	}
	var r result
	if err := json.Unmarshal(b, &r); err != nil || r.Key != key {
		return Verdict{}, false
	}
	return r.Verdict, true
}

// Keep writes the verdict so that a reader sees a whole file or none.
func Keep(path string, key Trial, v Verdict) error {
	b, err := json.MarshalIndent(result{Key: key, Verdict: v}, "", "  ")
	if err != nil {
		return err
	}
	temp, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+"-*")
	if err != nil {
		return err
	}
	defer os.Remove(temp.Name())
	if _, err := temp.Write(append(b, '\n')); err != nil {
		temp.Close()
		return err
	}
	if err := temp.Close(); err != nil {
		return err
	}
	return os.Rename(temp.Name(), path)
}
