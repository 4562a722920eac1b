package vmassets

import (
	"bytes"
	"compress/gzip"
	"debug/elf"
	"encoding/binary"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/klauspost/compress/zstd"
	"github.com/pierrec/lz4/v4"
)

// bzImageOf packs a payload the way the kernel's build does: behind five sectors of setup code and 96 bytes.
func bzImageOf(payload []byte) []byte {
	const setupSects, offset = 4, 96
	image := make([]byte, (setupSects+1)*sectorSize+offset)
	image[offSetupSects] = setupSects
	copy(image[offHeaderMagic:], "HdrS")
	binary.LittleEndian.PutUint16(image[offVersion:], 0x020f)
	binary.LittleEndian.PutUint32(image[offPayloadOffset:], offset)
	binary.LittleEndian.PutUint32(image[offPayloadLength:], uint32(len(payload)))
	image = append(image, payload...)
	return append(image, "what follows the payload"...)
}

func withSize(stream []byte, size int) []byte {
	return binary.LittleEndian.AppendUint32(stream, uint32(size))
}

func compress(t testing.TB, open func(*bytes.Buffer) (io.WriteCloser, error), kernel []byte) []byte {
	t.Helper()
	var buf bytes.Buffer
	w, err := open(&buf)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write(kernel); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}

func zstdPayload(t testing.TB, kernel []byte) []byte {
	return withSize(compress(t, func(b *bytes.Buffer) (io.WriteCloser, error) { return zstd.NewWriter(b) }, kernel), len(kernel))
}

func lz4Payload(t testing.TB, kernel []byte) []byte {
	return withSize(compress(t, func(b *bytes.Buffer) (io.WriteCloser, error) {
		w := lz4.NewWriter(b)
		return w, w.Apply(lz4.LegacyOption(true))
	}, kernel), len(kernel))
}

func gzipPayload(t testing.TB, kernel []byte) []byte {
	return compress(t, func(b *bytes.Buffer) (io.WriteCloser, error) { return gzip.NewWriter(b), nil }, kernel)
}

// xzPayload compresses as the kernel does (scripts/xz_wrap.sh), x86 filter and all.
func xzPayload(t testing.TB, kernel []byte) []byte {
	t.Helper()
	path, err := exec.LookPath("xz")
	if err != nil {
		t.Skip("xz is not installed (xz-utils)")
	}
	cmd := exec.Command(path, "--check=crc32", "--x86", "--lzma2=dict=1MiB", "--stdout")
	cmd.Stdin = bytes.NewReader(kernel)
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	return withSize(out, len(kernel))
}

// elfKernel is the smallest thing that passes for a kernel; its notes carry the PVH entry where asked for.
func elfKernel(t testing.TB, pvh bool) []byte {
	t.Helper()
	notes := note("Linux\x00", 0x101, []byte{0})
	if pvh {
		notes = append(notes, note("Xen\x00", notePhysEntry, make([]byte, 8))...)
	}
	const headers = 64 + 56
	header := elf.Header64{
		Ident: [16]byte{0x7f, 'E', 'L', 'F', byte(elf.ELFCLASS64), byte(elf.ELFDATA2LSB), 1},
		Type:  uint16(elf.ET_EXEC), Machine: uint16(elf.EM_X86_64), Version: 1,
		Phoff: 64, Ehsize: 64, Phentsize: 56, Phnum: 1,
	}
	prog := elf.Prog64{Type: uint32(elf.PT_NOTE), Off: headers, Filesz: uint64(len(notes)), Memsz: uint64(len(notes))}
	var buf bytes.Buffer
	for _, part := range []any{header, prog, notes, bytes.Repeat([]byte("\xe8\x10\x20\x00\x00some code"), 20000)} {
		if err := binary.Write(&buf, binary.LittleEndian, part); err != nil {
			t.Fatal(err)
		}
	}
	return buf.Bytes()
}

func note(owner string, kind uint32, desc []byte) []byte {
	pad := func(b []byte) []byte { return append(b, make([]byte, -len(b)&3)...) }
	var out []byte
	for _, n := range []uint32{uint32(len(owner)), uint32(len(desc)), kind} {
		out = binary.LittleEndian.AppendUint32(out, n)
	}
	return append(pad(append(out, owner...)), pad(bytes.Clone(desc))...)
}

// writeImage puts a synthetic bzImage into a file.
func writeImage(t testing.TB, kernel []byte) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "vmlinuz")
	if err := os.WriteFile(path, bzImageOf(zstdPayload(t, kernel)), 0o644); err != nil {
		t.Fatal(err)
	}
	return path
}
