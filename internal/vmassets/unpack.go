package vmassets

import (
	"bytes"
	"compress/gzip"
	"fmt"
	"io"
	"os/exec"

	"github.com/klauspost/compress/zstd"
	"github.com/pierrec/lz4/v4"
)

// opener uncompresses a stream that is known to become size bytes.
type opener func(stream []byte, size int) ([]byte, error)

// formatOf tells by the first bytes how a payload is compressed; the opener is nil where we can't undo it.
func formatOf(payload []byte) (name string, open opener) {
	for _, f := range []struct {
		magic, name string
		open        opener
	}{
		{"\x28\xb5\x2f\xfd", "zstd", openZstd},
		{"\x02\x21\x4c\x18", "lz4", openLZ4},
		{"\x1f\x8b\x08", "gzip", openGzip},
		{"\xfd7zXZ\x00", "xz", openXZ},
		{"\x5d\x00\x00", "lzma", nil},
		{"BZh", "bzip2", nil},
		{"\x89LZO", "lzo", nil},
	} {
		if bytes.HasPrefix(payload, []byte(f.magic)) {
			return f.name, f.open
		}
	}
	return "of an unknown format", nil
}

func openZstd(stream []byte, size int) ([]byte, error) {
	r, err := zstd.NewReader(bytes.NewReader(stream), zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxWindow(1<<28))
	if err != nil {
		return nil, err
	}
	defer r.Close()
	return readExactly(r, size)
}

// openLZ4 reads the legacy frame, the only one the kernel uses.
func openLZ4(stream []byte, size int) ([]byte, error) {
	return readExactly(lz4.NewReader(bytes.NewReader(stream)), size)
}

func openGzip(stream []byte, size int) ([]byte, error) {
	r, err := gzip.NewReader(bytes.NewReader(stream))
	if err != nil {
		return nil, err
	}
	r.Multistream(false)
	return readExactly(r, size)
}

// openXZ leaves the work to the xz program: kernels are run through its x86 filter, which no Go package undoes.
func openXZ(stream []byte, size int) ([]byte, error) {
	path, err := lookTool(toolXZ)
	if err != nil {
		return nil, err
	}
	var complaint bytes.Buffer
	cmd := exec.Command(path, "--decompress", "--stdout", "--format=xz", "--memlimit=512MiB")
	cmd.Stdin, cmd.Stderr = bytes.NewReader(stream), &complaint
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	kernel, readErr := readExactly(out, size)
	out.Close()
	if err := cmd.Wait(); readErr != nil {
		return nil, readErr
	} else if err != nil {
		return nil, fmt.Errorf("%w: %s", err, bytes.TrimSpace(complaint.Bytes()))
	}
	return kernel, nil
}

// readExactly reads size bytes and makes sure that there are no more. Memory is taken as bytes arrive, not as promised.
func readExactly(r io.Reader, size int) ([]byte, error) {
	var buf bytes.Buffer
	n, err := io.Copy(&buf, io.LimitReader(r, int64(size)+1))
	switch {
	case err != nil:
		return nil, err
	case n < int64(size):
		return nil, fmt.Errorf("it ended after %d of %d bytes", n, size)
	case n > int64(size):
		return nil, fmt.Errorf("it is longer than the %d bytes it claims", size)
	}
	return buf.Bytes(), nil
}
