package cloudhypervisor

import (
	"encoding/json"
	"fmt"
	"strings"
	"unicode"
)

// maxFault is the most that is kept of what Cloud Hypervisor says, in bytes: a VMM that its guest took over may say much.
const maxFault = 512

// fault is Cloud Hypervisor's refusal of a call. Its status says little, and differs from version to version: a pause of
// a VM that does not run is 500 in all of them, a call for a VM that is not there 500 up to version 52 and 404 from 53 on,
// a config that is wrong 500 up to 53 and 400 afterwards. So nobody decides by it; the caller knows the state.
type fault struct {
	Call    string   // "PUT /vm.boot"
	Status  int      // the HTTP status
	Reasons []string // outermost first, the cause last; each one line; none where nothing was said
}

func (f *fault) Error() string {
	s := fmt.Sprintf("%s: Cloud Hypervisor answered %d", f.Call, f.Status)
	if len(f.Reasons) > 0 {
		s += ": " + strings.Join(f.Reasons, ": ")
	}
	return s
}

// cause is the innermost reason, "" where nothing was said.
func (f *fault) cause() string {
	if len(f.Reasons) == 0 {
		return ""
	}
	return f.Reasons[len(f.Reasons)-1]
}

// newFault reads the body of a refusal: a JSON array of strings. Some refusals have none, old versions a string, and the
// HTTP server below has words of its own.
func newFault(cl call, status int, body []byte) *fault {
	f := &fault{Call: cl.String(), Status: status}
	for _, reason := range reasonsIn(body) {
		if reason = oneLine(reason); reason != "" {
			f.Reasons = append(f.Reasons, reason)
		}
	}
	if drop := len(f.Reasons) - maxReasons; drop > 0 {
		f.Reasons = f.Reasons[drop:]
	}
	return f
}

// maxReasons bounds a chain of reasons. The cause is at its end.
const maxReasons = 8

func reasonsIn(body []byte) []string {
	var chain []string
	if json.Unmarshal(body, &chain) == nil {
		return chain
	}
	var one string
	if json.Unmarshal(body, &one) == nil {
		return []string{one}
	}
	return []string{string(body)}
}

// oneLine makes text fit for a log and an error: printable, one line, at most maxFault bytes.
func oneLine(text string) string {
	text = text[:min(len(text), maxFault)]
	printable := strings.Map(func(r rune) rune {
		if unicode.IsPrint(r) {
			return r
		}
		return ' '
	}, strings.ToValidUTF8(text, ""))
	return strings.Join(strings.Fields(printable), " ")
}
