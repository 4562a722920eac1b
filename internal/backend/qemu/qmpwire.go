package qemu

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
)

// maxMessage is the longest line accepted from a monitor. The longest that metald asks for, the block statistics of
// sixteen disks, has about 30 KiB.
const maxMessage = 1 << 20

// message is one line from a monitor: the greeting, a reply or an event.
type message struct {
	Greeting *greeting       `json:"QMP"`
	Return   json.RawMessage `json:"return"`
	Error    *CommandError   `json:"error"`
	ID       *uint64         `json:"id"`
	Event    string          `json:"event"`
	Data     json.RawMessage `json:"data"`
}

type greeting struct {
	Version struct {
		QEMU struct{ Major, Minor, Micro int } `json:"qemu"`
	} `json:"version"`
}

func (g *greeting) version() string {
	v := g.Version.QEMU
	return fmt.Sprintf("%d.%d.%d", v.Major, v.Minor, v.Micro)
}

// isReply tells a reply to a command from everything else.
func (m *message) isReply() bool { return m.Return != nil || m.Error != nil }

// CommandError is QEMU's own refusal of a command. Its class is almost always GenericError: the text is for people,
// and nothing is decided by it.
type CommandError struct {
	Class string `json:"class"`
	Desc  string `json:"desc"`
}

// Error returns the class and the text.
func (e *CommandError) Error() string { return fmt.Sprintf("QEMU says %s: %s", e.Class, e.Desc) }

// errNotQMP says that the other end doesn't speak the protocol; nothing after that can be trusted.
var errNotQMP = errors.New("what came is not QMP")

// decoder splits a stream into messages. QEMU writes each on a line of its own.
type decoder struct {
	r    *bufio.Reader
	long []byte // a line that is longer than r's buffer
}

// newDecoder keeps its buffer small: there is one for every VM, and most of what comes is short.
func newDecoder(r io.Reader) *decoder { return &decoder{r: bufio.NewReaderSize(r, 512)} }

// next returns the next message, io.EOF at the end of the stream, io.ErrUnexpectedEOF in the middle of a message, or
// an error that wraps errNotQMP.
func (d *decoder) next() (*message, error) {
	for {
		line, err := d.line()
		if err != nil {
			return nil, err
		}
		if len(trimSpace(line)) == 0 {
			continue
		}
		m := new(message)
		if err := json.Unmarshal(line, m); err != nil {
			return nil, fmt.Errorf("%w: %v", errNotQMP, err)
		}
		if m.Greeting == nil && !m.isReply() && m.Event == "" {
			return nil, fmt.Errorf("%w: neither greeting nor reply nor event", errNotQMP)
		}
		return m, nil
	}
}

// line returns a line that is valid until the next call.
func (d *decoder) line() ([]byte, error) {
	d.long = nil
	for {
		part, err := d.r.ReadSlice('\n')
		switch {
		case err == nil && d.long == nil:
			return part, nil
		case err == nil:
			return append(d.long, part...), nil
		case errors.Is(err, bufio.ErrBufferFull):
			if d.long = append(d.long, part...); len(d.long) > maxMessage {
				return nil, fmt.Errorf("%w: a line of more than %d bytes", errNotQMP, maxMessage)
			}
		case errors.Is(err, io.EOF) && len(d.long)+len(part) > 0:
			return nil, io.ErrUnexpectedEOF
		default:
			return nil, err
		}
	}
}

func trimSpace(b []byte) []byte {
	for len(b) > 0 && (b[len(b)-1] == '\n' || b[len(b)-1] == '\r' || b[len(b)-1] == ' ') {
		b = b[:len(b)-1]
	}
	return b
}

// command is what goes to a monitor.
type command struct {
	Execute   string `json:"execute"`
	Arguments any    `json:"arguments,omitempty"`
	ID        uint64 `json:"id"`
}

func (c command) encode() []byte {
	b, err := json.Marshal(c)
	if err != nil {
		panic(err) // the arguments are structs of ours
	}
	return append(b, '\n')
}
