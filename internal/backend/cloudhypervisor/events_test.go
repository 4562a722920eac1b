package cloudhypervisor

import (
	"bytes"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// said is an event as Cloud Hypervisor writes it.
func said(source, name, properties string) string {
	return fmt.Sprintf("{\n  \"timestamp\": {\n    \"secs\": 3,\n    \"nanos\": 5000000\n  },\n  \"source\": %q,\n  \"event\": %q,\n  \"properties\": %s\n}\n\n",
		source, name, properties)
}

// heard is what comes out of a stream that is fed text in pieces of a size.
func heard(text string, size int) []vmmEvent {
	var events []vmmEvent
	s := newEventStream(func(e vmmEvent) { events = append(events, e) })
	for text != "" {
		n := min(size, len(text))
		s.Write([]byte(text[:n]))
		text = text[n:]
	}
	return events
}

func TestEvents(t *testing.T) {
	const at = 3*time.Second + 5*time.Millisecond
	booted, panicked := said("vm", "booted", "null"), said("guest", "panic", "{\n    \"event\": \"{\\n  \\n\\n\"\n  }")
	isBooted := vmmEvent{Source: "vm", Name: "booted", At: at}
	lostBooted := vmmEvent{Source: "vm", Name: "booted", At: at, Lost: true}
	isPanic := vmmEvent{Source: "guest", Name: "panic", At: at, Properties: map[string]string{"event": "{\n  \n\n"}}
	for name, c := range map[string]struct {
		text string
		want []vmmEvent
	}{
		"two":                    {booted + panicked, []vmmEvent{isBooted, isPanic}},
		"not yet whole":          {booted + panicked[:len(panicked)-1], []vmmEvent{isBooted}},
		"torn, with its end":     {panicked[:60] + "\n\n" + booted, []vmmEvent{lostBooted}},
		"torn, without its end":  {panicked[:60] + booted + booted, []vmmEvent{lostBooted, isBooted}},
		"torn at its begin":      {panicked[20:] + booted, []vmmEvent{lostBooted}},
		"an empty line lost":     {strings.TrimRight(panicked, "\n") + booted, []vmmEvent{isPanic, isBooted}},
		"more empty lines":       {"\n\n\n" + booted + "\n\n\n\n" + booted, []vmmEvent{isBooted, isBooted}},
		"no event":               {"[]\n\n{}\n\n7\n\n" + booted, []vmmEvent{lostBooted}},
		"of another form":        {said("vm", "booted", "7") + said("", "x", "null") + booted, []vmmEvent{lostBooted}},
		"a line without an end":  {strings.Repeat("x", 1<<20) + "\n\n" + booted, []vmmEvent{lostBooted}},
		"an event of a megabyte": {said("vm", strings.Repeat("x", 1<<20), "null") + booted, []vmmEvent{lostBooted}},
		"a nested bomb":          {strings.Repeat("{\n  \"", 200_000) + "\n\n" + booted, []vmmEvent{lostBooted}},
		"many torn ones":         {strings.Repeat("{\n  \"", 2000) + "\n\n" + booted, []vmmEvent{lostBooted}},
		"unknown":                {said("vm", "levitating", "null"), []vmmEvent{{Source: "vm", Name: "levitating", At: at}}},
	} {
		t.Run(name, func(t *testing.T) {
			for _, size := range []int{1, 7, 4096, 1 << 22} {
				if diff := cmp.Diff(c.want, heard(c.text, size)); diff != "" {
					t.Errorf("in pieces of %d: -want +got:\n%s", size, diff)
				}
			}
		})
	}
}

// Whatever comes, an event behind an empty line is heard, and what is kept stays small.
func FuzzEvents(f *testing.F) {
	f.Add([]byte(said("vm", "booted", "null")), 3)
	f.Add([]byte(said("vm", "booted", "null")[:40]+said("guest", "panic", "{\"a\": \"b\"}")), 100)
	f.Add(bytes.Repeat([]byte("{\n  \""), 4000), 4096)
	f.Add(bytes.Repeat([]byte("x"), 2*maxEvent), 4096)
	f.Fuzz(func(t *testing.T, noise []byte, size int) {
		size = 1 + int(uint(size)%65536)
		var last vmmEvent
		s := newEventStream(func(e vmmEvent) { last = e })
		text := append(bytes.Clone(noise), "\n\n"+said("vmm", "shutdown", "null")...)
		for rest := text; len(rest) > 0; {
			n := min(size, len(rest))
			s.Write(rest[:n])
			rest = rest[n:]
			if len(s.buf) > maxEvent || cap(s.buf) > 8*maxEvent {
				t.Fatalf("it keeps %d bytes of %d", len(s.buf), cap(s.buf))
			}
		}
		if !last.is("vmm", "shutdown") {
			t.Errorf("the last event is %+v", last)
		}
	})
}
