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
	for _, name := range names {
		content, err := unseal(dir, name)
		if err != nil {
			return err
		}
		if rest := frames(content, &f); len(rest) > 0 {
			return fmt.Errorf("segment %s: %d bytes cannot be read", name, len(rest))
		}
	}
	content, err := os.ReadFile(filepath.Join(dir, openName))
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	frames(content, &f)
	return err
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
