package firecracker

import (
	"encoding/json"
	"fmt"
	"strings"
	"unicode"
)

// maxFault is the most that is kept of what Firecracker says, in bytes: a VMM that its guest took over may say much.
const maxFault = 512

// fault is Firecracker's refusal of a call. Its status is nearly always 400, whatever the reason is.
type fault struct {
	Call    string // "PUT /actions"
	Status  int    // the HTTP status
	Message string // fault_message, or the whole body where that is not JSON; one line
}

func (f *fault) Error() string {
	s := fmt.Sprintf("%s: Firecracker answered %d", f.Call, f.Status)
	if f.Message != "" {
		s += ": " + f.Message
	}
	return s
}

// newFault reads the body of a refusal. Firecracker's HTTP server has refusals of its own, which are no JSON.
func newFault(cl call, status int, body []byte) *fault {
	var said struct {
		FaultMessage string `json:"fault_message"`
	}
	if err := json.Unmarshal(body, &said); err != nil || said.FaultMessage == "" {
		said.FaultMessage = string(body)
	}
	return &fault{Call: cl.String(), Status: status, Message: oneLine(said.FaultMessage)}
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
