package raw

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"hash/crc32"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/klauspost/compress/zstd"
)

// Read calls f for everything that was kept in dir, in order. A sealed segment whose hash is not that of its seal is an
// error.
func Read(dir string, f func(content []byte) error) error {
	names, err := sealedNames(dir)
	if err != nil {
		return err
	}
	if err := readSealed(dir, names, f); err != nil {
		return err
	}
	content, err := os.ReadFile(filepath.Join(dir, openName))
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	frames(content, &f)
	return err
}

// Mark is a place in a log: how many segments are sealed before it, and how much of the next.
type Mark struct {
	Segments int
	Bytes    int64
}

// Mark is the place behind the last record.
func (l *Log) Mark() Mark {
	l.mu.Lock()
	defer l.mu.Unlock()
	return Mark{l.next, l.size}
}

// ReadTo is Read up to a place, of a log that somebody may write meanwhile.
func ReadTo(dir string, to Mark, f func(content []byte) error) error {
	for range 2 { // the segment may be sealed between the two looks
		names, err := sealedNames(dir)
		if err != nil {
			return err
		}
		if len(names) < to.Segments {
			return fmt.Errorf("%d sealed segments, and there were %d", len(names), to.Segments)
		}
		content, err := tail(dir, names, to)
		if err != nil {
			return err
		}
		if int64(len(content)) < to.Bytes {
			continue
		}
		if err := readSealed(dir, names[:to.Segments], f); err != nil {
			return err
		}
		if rest := frames(content[:to.Bytes], &f); len(rest) > 0 {
			return fmt.Errorf("the segment after %d sealed ones: %d bytes cannot be read", to.Segments, len(rest))
		}
		return nil
	}
	return fmt.Errorf("the segment after %d sealed ones is shorter than the %d bytes that it had", to.Segments, to.Bytes)
}

// tail is the segment that was open at a place.
func tail(dir string, names []string, at Mark) ([]byte, error) {
	if len(names) > at.Segments {
		return unseal(dir, names[at.Segments])
	}
	content, err := os.ReadFile(filepath.Join(dir, openName))
	if errors.Is(err, os.ErrNotExist) {
		err = nil
	}
	return content, err
}

func readSealed(dir string, names []string, f func(content []byte) error) error {
	for _, name := range names {
		content, err := unseal(dir, name)
		if err != nil {
			return err
		}
		if rest := frames(content, &f); len(rest) > 0 {
			return fmt.Errorf("segment %s: %d bytes cannot be read", name, len(rest))
		}
	}
	return nil
}

func unseal(dir, name string) ([]byte, error) {
	packed, err := os.ReadFile(filepath.Join(dir, name))
	if err != nil {
		return nil, err
	}
	line, err := os.ReadFile(filepath.Join(dir, name+".sha256"))
	if err != nil {
		return nil, err
	}
	if sum := sha256.Sum256(packed); !bytes.HasPrefix(line, []byte(hex.EncodeToString(sum[:]))) {
		return nil, fmt.Errorf("segment %s is not what was sealed", name)
	}
	dec, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(1))
	if err != nil {
		return nil, err
	}
	defer dec.Close()
	return dec.DecodeAll(packed, nil)
}

// frames calls f for each whole frame, and returns what follows the last.
func frames(content []byte, f *func([]byte) error) []byte {
	for len(content) >= header {
		n := int(binary.LittleEndian.Uint32(content))
		if n == 0 || n > maxFrame || len(content) < header+n { // a file that ends in zeros ends there
			break
		}
		body := content[header : header+n]
		if crc32.Checksum(body, castagnoli()) != binary.LittleEndian.Uint32(content[4:]) {
			break
		}
		if (*f)(body) != nil {
			break
		}
		content = content[header+n:]
	}
	return content
}

func sealedNames(dir string) ([]string, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	var names []string
	for _, e := range entries {
		if strings.HasSuffix(e.Name(), sealed) {
			names = append(names, e.Name())
		}
	}
	slices.Sort(names)
	return names, nil
}
