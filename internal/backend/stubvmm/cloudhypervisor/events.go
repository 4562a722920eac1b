package cloudhypervisor

import (
	"bytes"
	"encoding/json"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// events writes what happens, each as JSON over several lines with an empty one behind it. What is not taken at once is
// lost, and may be lost in its middle.
type events struct {
	began  time.Time
	silent bool

	mu sync.Mutex // of an event
	fd int        // -1 for none
}

func (e *events) open(fd int) error {
	if err := unix.SetNonblock(fd, true); err != nil {
		return causedBy(err, "Error doing event monitor I/O")
	}
	e.fd = fd
	return nil
}

func (e *events) say(source, event string, properties map[string]string) {
	if e.fd < 0 || e.silent {
		return
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	type stamp struct {
		Secs  int64 `json:"secs"`
		Nanos int64 `json:"nanos"`
	}
	at := time.Since(e.began)
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", "  ")
	err := enc.Encode(struct {
		Timestamp  stamp             `json:"timestamp"`
		Source     string            `json:"source"`
		Event      string            `json:"event"`
		Properties map[string]string `json:"properties"`
	}{stamp{int64(at / time.Second), int64(at % time.Second)}, source, event, properties})
	if err != nil {
		panic(err) // strings and numbers
	}
	writeAll(e.fd, bytes.TrimSuffix(b.Bytes(), []byte("\n")))
	writeAll(e.fd, []byte("\n\n"))
}

// writeAll writes until it is refused.
func writeAll(fd int, b []byte) bool {
	for len(b) > 0 {
		n, err := unix.Write(fd, b)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return false
		}
		b = b[n:]
	}
	return true
}
