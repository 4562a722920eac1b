package api

import (
	"compress/gzip"
	"errors"
	"io"

	"connectrpc.com/connect"
)

// errInflated ends the decompression of a request that is too large. connect would otherwise inflate all of it
// only to tell its size.
var errInflated = errors.New("the request is too large when decompressed")

// boundedGzip reads at most what a message may have, and one byte more so that connect sees that it is too much.
type boundedGzip struct {
	gzip.Reader
	left int
}

func newBoundedGzip() connect.Decompressor { return &boundedGzip{} }

// Read reads decompressed bytes.
func (g *boundedGzip) Read(p []byte) (int, error) {
	if g.left <= 0 {
		return 0, errInflated
	}
	n, err := g.Reader.Read(p[:min(len(p), g.left)])
	g.left -= n
	return n, err
}

// Reset starts on another request.
func (g *boundedGzip) Reset(r io.Reader) error {
	g.left = maxMessageBytes + 1
	return g.Reader.Reset(r)
}

func newGzip() connect.Compressor { return gzip.NewWriter(io.Discard) }
