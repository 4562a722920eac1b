package cloudhypervisor

import (
	"bytes"
	"encoding/json"
	"time"
)

// maxEvent is the most bytes that one event may have. The longest that Cloud Hypervisor writes has some hundreds.
const maxEvent = 16 << 10

// vmmEvent is what Cloud Hypervisor says of itself, its VM and its devices. It is a hint: names that nobody knows mean
// nothing, and an event that should have come may have been lost, so what is so is asked for by vm.info.
type vmmEvent struct {
	Source     string            // "vm", "vmm", "guest", "virtio-device"
	Name       string            // "booted"
	Properties map[string]string // nil for none
	At         time.Duration     // since the VMM began
	Lost       bool              // whether something before it was lost, or made no sense
}

// is says whether the event is the one of these names.
func (e vmmEvent) is(source, name string) bool { return e.Source == source && e.Name == name }

// eventStream reads the stream of --event-monitor: indented JSON objects, each with an empty line behind it. Cloud
// Hypervisor writes without waiting, and what finds no room in the pipe is gone: a part of an event, a whole one, the
// empty line. So after anything that makes no sense the stream goes on at the next object that begins a line.
// It keeps no more than one event, whatever it is fed, and belongs to one goroutine.
type eventStream struct {
	yield    func(vmmEvent)
	buf      []byte
	skipping bool // up to the next empty line: what came was too long for an event
	lost     bool
}

// newEventStream returns a stream that gives its events to yield.
func newEventStream(yield func(vmmEvent)) *eventStream { return &eventStream{yield: yield} }

// frameEnd is the end of one event and the empty line. No event has an empty line within it.
var frameEnd = []byte("\n\n")

// objectStart is how an indented object begins that is within no other.
var objectStart = []byte("{\n  \"")

// Write takes in what came; it always takes all of it.
func (s *eventStream) Write(p []byte) (int, error) {
	for rest := p; len(rest) > 0; {
		n := min(len(rest), maxEvent)
		s.buf = append(s.buf, rest[:n]...)
		rest = rest[n:]
		s.frames()
	}
	return len(p), nil
}

// frames takes all whole events off the buffer, and throws away what is too long to be one.
func (s *eventStream) frames() {
	from := 0
	for {
		end := bytes.Index(s.buf[from:], frameEnd)
		if end < 0 {
			break
		}
		if frame := s.buf[from : from+end]; s.skipping || len(frame) > maxEvent {
			s.lost = true
		} else {
			s.frame(frame)
		}
		s.skipping = false
		from += end + len(frameEnd)
	}
	s.buf = append(s.buf[:0], s.buf[from:]...)
	if s.skipping || len(s.buf) > maxEvent {
		s.skipping, s.lost = true, true
		s.buf = append(s.buf[:0], s.buf[max(0, len(s.buf)-1):]...) // it may be the first half of an empty line
	}
}

// maxTries bounds how often a frame is looked at for an event that is behind a torn one.
const maxTries = 8

// frame yields the events between two empty lines: one, unless something was lost.
func (s *eventStream) frame(text []byte) {
	for range maxTries {
		text = bytes.TrimLeft(text, "\n")
		if len(text) == 0 {
			return
		}
		dec := json.NewDecoder(bytes.NewReader(text))
		if e, ok := decodeEvent(dec); ok {
			e.Lost, s.lost = s.lost, false
			s.yield(e)
			text = text[dec.InputOffset():]
			continue
		}
		s.lost = true
		next := bytes.Index(text[1:], objectStart)
		if next < 0 {
			return
		}
		text = text[1+next:]
	}
	s.lost = true
}

func decodeEvent(dec *json.Decoder) (vmmEvent, bool) {
	var e struct {
		Timestamp struct {
			Secs  uint32 `json:"secs"` // a VMM of 136 years is none
			Nanos uint32 `json:"nanos"`
		} `json:"timestamp"`
		Source     string            `json:"source"`
		Event      string            `json:"event"`
		Properties map[string]string `json:"properties"`
	}
	if err := dec.Decode(&e); err != nil || e.Source == "" || e.Event == "" {
		return vmmEvent{}, false
	}
	at := time.Duration(e.Timestamp.Secs)*time.Second + time.Duration(e.Timestamp.Nanos)
	return vmmEvent{Source: e.Source, Name: e.Event, Properties: e.Properties, At: at}, true
}
