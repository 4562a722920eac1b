package firecracker

import (
	"bytes"
	"strconv"
	"strings"
)

// request is one that was read.
type request struct {
	Method, Path string
	Body         []byte // nil without one
}

// bufferSize is how much is read at a time, and so the longest line (BUFFER_SIZE in micro-http's connection.rs).
const bufferSize = 1024

// parser makes requests of bytes, as micro-http's HttpConnection does. After an error it goes on with what it has.
type parser struct {
	maxBody int

	buffer  [bufferSize]byte
	cursor  int // where the next bytes go
	state   func(p *parser, start *int, end int) (bool, error)
	pending *request
	length  int  // of the body, as the headers say
	missing int  // of the body
	expects bool // an interim answer
	body    []byte
	done    []request
}

func newParser(maxBody int) *parser {
	return &parser{maxBody: maxBody, state: (*parser).requestLine}
}

// room is where the next bytes are read to.
func (p *parser) room() ([]byte, error) {
	if p.cursor >= bufferSize {
		return nil, errOverflow
	}
	return p.buffer[p.cursor:], nil
}

// parse takes n bytes that were read into room. The requests that it finds are in done.
func (p *parser) parse(n int) error {
	end, start := p.cursor+n, 0
	for {
		more, err := p.state(p, &start, end)
		if err != nil || !more {
			return err
		}
		if p.state == nil {
			p.done = append(p.done, *p.pending)
			p.pending, p.length, p.missing = nil, 0, 0
			p.state = (*parser).requestLine
		}
	}
}

var (
	errOverflow = says("Overflow occurred when parsing a request.")
	errInvalid  = says("Invalid request.")
)

func (p *parser) requestLine(start *int, end int) (bool, error) {
	n := bytes.Index(p.buffer[*start:end], []byte("\r\n"))
	if n < 0 {
		if end == bufferSize && *start == 0 {
			return false, errInvalid
		}
		p.shift(*start, end)
		return false, nil
	}
	line := string(p.buffer[*start : *start+n])
	*start += n + 2
	p.length, p.expects = 0, false
	var err error
	if p.pending, err = parseRequestLine(line); err != nil {
		return false, err
	}
	p.state = (*parser).header
	return true, nil
}

func parseRequestLine(line string) (*request, error) {
	method, rest, ok := strings.Cut(line, " ")
	uri, version, ok2 := strings.Cut(rest, " ")
	switch {
	case !ok || !ok2:
		return nil, errInvalid
	case method != "GET" && method != "PUT" && method != "PATCH" && method != "DELETE":
		return nil, says("Invalid HTTP Method: Unsupported HTTP method.")
	case uri == "":
		return nil, says("Invalid URI: Empty URI not allowed.")
	case version != "HTTP/1.1" && version != "HTTP/1.0":
		return nil, says("Invalid HTTP Version: Unsupported HTTP version.")
	}
	return &request{Method: method, Path: absPath(uri)}, nil
}

// absPath takes what stands before the path away.
func absPath(uri string) string {
	if rest, ok := strings.CutPrefix(uri, "http://"); ok {
		if i := strings.IndexByte(rest, '/'); i >= 0 {
			return rest[i:]
		}
		return ""
	}
	if strings.HasPrefix(uri, "/") {
		return uri
	}
	return ""
}

func (p *parser) header(start *int, end int) (bool, error) {
	n := bytes.Index(p.buffer[*start:end], []byte("\r\n"))
	switch {
	case n < 0 && *start == 0 && end == bufferSize:
		return false, says("Invalid header. Reason: Invalid content length. Header: %s", p.buffer[:])
	case n < 0:
		p.shift(*start, end)
		return false, nil
	case n == 0:
		*start += 2
		return true, p.headersEnd()
	}
	line := string(p.buffer[*start : *start+n])
	*start += n + 2
	return true, p.headerLine(line)
}

func (p *parser) headerLine(line string) error {
	name, value, ok := strings.Cut(line, ":")
	if !ok {
		return says("Invalid header. Reason: Header is incorrectly formatted. Key: %s", name)
	}
	switch strings.TrimSpace(strings.ToLower(name)) {
	case "content-length":
		n, err := strconv.ParseUint(strings.TrimSpace(value), 10, 32)
		if err != nil {
			return invalidValue(name, value)
		}
		p.length = int(n)
	case "expect":
		p.expects = p.expects || strings.TrimSpace(value) == "100-continue"
	case "accept-encoding":
		return checkEncoding(strings.TrimSpace(value))
	}
	return nil
}

func checkEncoding(value string) error {
	if value == "" {
		return errInvalid
	}
	for _, encoding := range strings.Split(value, ",") {
		encoding = strings.TrimSpace(encoding)
		if encoding == "identity;q=0" || encoding == "*;q=0" && !strings.Contains(value, "identity") {
			return invalidValue("Accept-Encoding", encoding)
		}
	}
	return nil
}

func invalidValue(name, value string) error {
	return says("Invalid header. Reason: Invalid value. Key:%s; Value:%s", name, value)
}

// headersEnd decides whether there is a body: only a Content-Length says so.
func (p *parser) headersEnd() error {
	switch {
	case p.length == 0:
		p.state = nil
	case p.length > p.maxBody:
		return says("Request payload with size %d is larger than the limit of %d allowed by server.", p.length, p.maxBody)
	default:
		p.missing, p.pending.Body = p.length, []byte{}
		p.state = (*parser).bodyBytes
	}
	return nil
}

func (p *parser) bodyBytes(start *int, end int) (bool, error) {
	have := end - *start
	if p.missing > have {
		p.body = append(p.body, p.buffer[*start:end]...)
		p.missing -= have
		p.buffer, p.cursor = [bufferSize]byte{}, 0
		return false, nil
	}
	p.body = append(p.body, p.buffer[*start:*start+p.missing]...)
	*start += p.missing
	p.pending.Body, p.body, p.missing = p.body, nil, 0
	p.state = nil
	return true, nil
}

// shift moves what is not read yet to the front.
func (p *parser) shift(start, end int) {
	n := copy(p.buffer[:], p.buffer[start:end])
	clear(p.buffer[n:end])
	p.cursor = n
}
