package firecracker

import (
	"bytes"
	"encoding/json"
	"fmt"
)

// response is an answer. Its reason phrase is empty (micro-http's response.rs).
type response struct {
	Status     int
	Body       []byte // nil without one
	Deprecated bool
}

func (r response) bytes() []byte {
	var b bytes.Buffer
	fmt.Fprintf(&b, "HTTP/1.1 %d \r\nServer: Firecracker API\r\nConnection: keep-alive\r\n", r.Status)
	if r.Deprecated {
		b.WriteString("Deprecation: true\r\n")
	}
	if r.Status != 100 && r.Status != 204 {
		fmt.Fprintf(&b, "Content-Type: application/json\r\nContent-Length: %d\r\n", len(r.Body))
	}
	b.WriteString("\r\n")
	b.Write(r.Body)
	return b.Bytes()
}

// serverFull is what a client gets that is one too many.
const serverFull = "HTTP/1.1 503\r\nServer: Firecracker API\r\nConnection: close\r\n" +
	"Content-Length: 40\r\n\r\n{ \"error\": \"Too many open connections\" }"

// unparsed is the answer to what is no request. It is no JSON: there is a line's end in a string.
func unparsed(err error) response {
	return response{Status: 400, Body: fmt.Appendf(nil,
		"{ \"error\": \"%v\nAll previous unanswered requests will be dropped.\" }", err)}
}

// fault is an error that Firecracker tells the client.
type fault struct {
	Status  int // 400, but for one
	Message string
	Debug   string // how the log has it, if the request was not understood
}

func (f *fault) Error() string { return f.Message }

func faultf(format string, args ...any) *fault {
	return &fault{Status: 400, Message: fmt.Sprintf(format, args...)}
}

func (f *fault) response() response {
	return response{Status: f.Status, Body: toJSON(map[string]string{"fault_message": f.Message})}
}

// toJSON writes JSON as serde_json does: without a newline, and with no escapes that JSON doesn't ask for.
func toJSON(v any) []byte {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil {
		panic(err) // structs of strings and numbers
	}
	return bytes.TrimSuffix(b.Bytes(), []byte("\n"))
}

// words are an error in the words of the program that is played, which are no Go program's.
type words string

func (w words) Error() string { return string(w) }

func says(format string, args ...any) error { return words(fmt.Sprintf(format, args...)) }
