package cloudhypervisor

import (
	"bytes"
	"encoding/json"
	"fmt"
)

// response is an answer. Its reason phrase is empty.
type response struct {
	Status int
	Body   []byte // nil without one
	Plain  bool   // it is micro-http's own, which goes by another name
}

func (r response) bytes() []byte {
	server := "Cloud Hypervisor API"
	if r.Plain {
		server = "Firecracker API"
	}
	var b bytes.Buffer
	fmt.Fprintf(&b, "HTTP/1.1 %d \r\nServer: %s\r\nConnection: keep-alive\r\n", r.Status, server)
	if r.Status != 204 {
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
	return response{Status: 400, Plain: true, Body: fmt.Appendf(nil,
		"{ \"error\": \"%v\nAll previous unanswered requests will be dropped.\" }", err)}
}

// words are an error in the words of the program that is played, which are no Go program's.
type words string

func (w words) Error() string { return string(w) }

// kind is what of a refusal its status is made of.
type kind int

const (
	other      kind = iota
	badRequest      // it is not understood
	notFound        // there is no such call
	noVM            // there is no VM, or no config of one
	badConfig       // a config that is refused
	noDevice
	duplicate // of an id or a path
	pending   // the vCPUs that are taken away
	empty     // a bad request about which nothing is said
)

// fault is an error as Cloud Hypervisor tells it: what was asked first, the cause last.
type fault struct {
	kind  kind
	chain []string
}

func (f *fault) Error() string { return f.chain[len(f.chain)-1] }

func says(chain ...string) *fault { return &fault{chain: chain} }

func (f *fault) as(k kind) *fault { f.kind = k; return f }

// under puts what was tried before the cause.
func (f *fault) under(what ...string) *fault {
	return &fault{kind: f.kind, chain: append(append([]string{}, what...), f.chain...)}
}

// status is that of a version.
func (f *fault) status(version int) int {
	switch f.kind {
	case badRequest, empty:
		return 400
	case notFound:
		return 404
	case pending:
		return 429
	case noVM:
		if version >= 53 {
			return 404
		}
	case badConfig:
		if version >= 54 {
			return 400
		}
	case noDevice:
		if version >= 54 {
			return 404
		}
	case duplicate:
		if version >= 54 {
			return 409
		}
	}
	return 500
}

func (f *fault) response(version int) response {
	if f.kind == empty {
		return response{Status: 400}
	}
	return response{Status: f.status(version), Body: toJSON(f.chain)}
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
