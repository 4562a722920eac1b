package cloudhypervisor

import (
	"bytes"
	"fmt"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// request is one that was read, with the open files that came with any of its bytes.
type request struct {
	Method, Path string
	Body         []byte // nil without one
	Files        []int
}

const (
	// maxLine is the longest line of a request, in bytes, and how much is read at a time.
	maxLine = 1024
	// maxBody is the longest body, in bytes.
	maxBody = 51200
)

// reader makes requests of what comes over a connection, in the words of micro-http where it is none.
type reader struct {
	fd    int
	have  []byte
	files []int
}

// errGone is the end of a connection.
const errGone = words("the connection has ended")

// next reads one request. After an error that is not errGone what was read is forgotten, and more can be read.
func (r *reader) next() (request, error) {
	for {
		q, n, err := parse(r.have)
		switch {
		case err != nil:
			r.have = nil
			r.drop()
			return request{}, err
		case n > 0:
			r.have = r.have[n:]
			q.Files, r.files = r.files, nil
			return q, nil
		}
		if err := r.more(); err != nil {
			r.drop()
			return request{}, err
		}
	}
}

func (r *reader) more() error {
	b, oob := make([]byte, maxLine), make([]byte, unix.CmsgSpace(4*64))
	n, oobn, _, _, err := unix.Recvmsg(r.fd, b, oob, unix.MSG_CMSG_CLOEXEC)
	if err == unix.EINTR {
		return nil
	}
	if err != nil || n == 0 {
		return errGone
	}
	r.have = append(r.have, b[:n]...)
	messages, err := unix.ParseSocketControlMessage(oob[:oobn])
	if err != nil {
		return errGone
	}
	for _, m := range messages {
		if fds, err := unix.ParseUnixRights(&m); err == nil {
			r.files = append(r.files, fds...)
		}
	}
	return nil
}

func (r *reader) drop() {
	closeAll(r.files)
	r.files = nil
}

func closeAll(fds []int) {
	for _, fd := range fds {
		unix.Close(fd)
	}
}

// parse takes a request from the front of b and says how long it was; 0 is for one that is not whole yet.
func parse(b []byte) (request, int, error) {
	line, at, err := cutLine(b, 0, words("Invalid request."))
	if err != nil || at == 0 {
		return request{}, 0, err
	}
	q, err := parseRequestLine(line)
	if err != nil {
		return request{}, 0, err
	}
	length := 0
	for {
		start := at
		line, at, err = cutLine(b, start, words("Invalid header. Reason: Invalid content length. Header: "+string(b[start:min(len(b), start+maxLine)])))
		if err != nil || at == 0 {
			return request{}, 0, err
		}
		if line == "" {
			break
		}
		if length, err = parseHeader(line, length); err != nil {
			return request{}, 0, err
		}
	}
	switch {
	case length > maxBody:
		return request{}, 0, words(fmt.Sprintf("Request payload with size %d is larger than the limit of %d allowed by server.", length, maxBody))
	case len(b)-at < length:
		return request{}, 0, nil
	case length > 0:
		q.Body = b[at : at+length]
	}
	return q, at + length, nil
}

// cutLine is the line at start and where the next begins, 0 if it is not whole.
func cutLine(b []byte, start int, tooLong error) (string, int, error) {
	n := bytes.Index(b[start:], []byte("\r\n"))
	if n > maxLine-2 || n < 0 && len(b)-start >= maxLine {
		return "", 0, tooLong
	}
	if n < 0 {
		return "", 0, nil
	}
	return string(b[start : start+n]), start + n + 2, nil
}

func parseRequestLine(line string) (request, error) {
	method, rest, ok := strings.Cut(line, " ")
	uri, version, ok2 := strings.Cut(rest, " ")
	switch {
	case ok && method != "GET" && method != "PUT" && method != "PATCH":
		return request{}, words("Invalid HTTP Method: Unsupported HTTP method.")
	case !ok || !ok2:
		return request{}, words("Invalid request.")
	case uri == "":
		return request{}, words("Invalid URI: Empty URI not allowed.")
	case version != "HTTP/1.1" && version != "HTTP/1.0":
		return request{}, words("Invalid HTTP Version: Unsupported HTTP version.")
	}
	return request{Method: method, Path: absolutePath(uri)}, nil
}

// absolutePath takes what stands before the path away.
func absolutePath(uri string) string {
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

// parseHeader returns the length of the body as it is known by then.
func parseHeader(line string, length int) (int, error) {
	name, value, ok := strings.Cut(line, ":")
	if !ok {
		return 0, words("Invalid header. Reason: Header is incorrectly formatted. Key: " + name)
	}
	if strings.TrimSpace(strings.ToLower(name)) != "content-length" {
		return length, nil
	}
	n, err := strconv.ParseUint(strings.TrimSpace(value), 10, 32)
	if err != nil {
		return 0, words("Invalid header. Reason: Invalid value. Key:" + name + "; Value:" + value)
	}
	return int(n), nil
}
