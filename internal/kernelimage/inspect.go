package kernelimage

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"strings"
)

// format is how a kernel file is entered.
type format uint8

const (
	formatBzImage format = iota + 1
	formatPVH            // an ELF with the note that names its PVH entry
	formatELF            // an ELF without
)

// kernel is what a kernel file holds.
type kernel struct {
	format  format
	release string // of Linux, "6.1.0-56-cloud-amd64"; "" if it isn't told, and for formatPVH, where nobody asks
}

// inspectKernel says what kernel is in a file of size bytes. Its error is for the person who chose the file.
func inspectKernel(r io.ReaderAt, size int64) (kernel, error) {
	head := make([]byte, 0x250)
	n, err := r.ReadAt(head, 0)
	if err != nil && !errors.Is(err, io.EOF) {
		return kernel{}, fmt.Errorf("the kernel cannot be read: %w", err)
	}
	head = head[:n]
	switch {
	case bytes.HasPrefix(head, []byte(elf.ELFMAG)):
		return inspectELF(r, size)
	case len(head) == cap(head) && string(head[0x202:0x206]) == "HdrS" && head[0x1fe] == 0x55 && head[0x1ff] == 0xaa:
		return kernel{format: formatBzImage, release: setupRelease(r, head)}, nil
	}
	return kernel{}, errors.New("not a kernel: neither a bzImage nor an ELF file")
}

// setupRelease reads the version string that the setup header of a bzImage points at (Linux,
// Documentation/arch/x86/boot.rst, kernel_version).
func setupRelease(r io.ReaderAt, head []byte) string {
	pointer := int64(binary.LittleEndian.Uint16(head[0x20e:]))
	if pointer == 0 {
		return ""
	}
	text := make([]byte, 128)
	n, _ := r.ReadAt(text, 0x200+pointer)
	return firstWord(text[:n])
}

// pvhNote is XEN_ELFNOTE_PHYS32_ENTRY, whose owner is "Xen": the address where PVH enters.
const pvhNote = 18

func inspectELF(r io.ReaderAt, size int64) (kernel, error) {
	f, err := elf.NewFile(r)
	if err != nil {
		return kernel{}, fmt.Errorf("not a kernel: a broken ELF file: %w", err)
	}
	if f.Machine != elf.EM_X86_64 || f.Type != elf.ET_EXEC && f.Type != elf.ET_DYN {
		return kernel{}, fmt.Errorf("not a kernel for x86-64: an ELF file of type %v for %v", f.Type, f.Machine)
	}
	for _, p := range f.Progs {
		if p.Type == elf.PT_INTERP {
			return kernel{}, errors.New("not a kernel: a program for Linux")
		}
		if p.Type == elf.PT_NOTE && hasPVHNote(p, f.ByteOrder) {
			return kernel{format: formatPVH}, nil
		}
	}
	release, err := bannerRelease(io.NewSectionReader(r, 0, size))
	if err != nil {
		return kernel{}, err
	}
	if release == "" {
		return kernel{}, errors.New("not a kernel: an ELF file without a PVH note and without Linux in it")
	}
	return kernel{format: formatELF, release: release}, nil
}

// hasPVHNote looks through a segment of notes: name size, descriptor size, type, then both padded to four bytes.
func hasPVHNote(p *elf.Prog, order binary.ByteOrder) bool {
	notes := make([]byte, min(p.Filesz, 64<<10))
	n, _ := p.ReadAt(notes, 0)
	for notes = notes[:n]; len(notes) >= 12; {
		nameSize, descSize, kind := order.Uint32(notes), order.Uint32(notes[4:]), order.Uint32(notes[8:])
		nameEnd := 12 + pad4(uint64(nameSize))
		end := nameEnd + pad4(uint64(descSize))
		if end > uint64(len(notes)) {
			return false
		}
		if kind == pvhNote && string(notes[12:12+nameSize]) == "Xen\x00" {
			return true
		}
		notes = notes[end:]
	}
	return false
}

func pad4(n uint64) uint64 { return (n + 3) &^ 3 }

// bannerRelease finds "Linux version <release> (" in an uncompressed kernel; "" if there is none.
func bannerRelease(r io.Reader) (string, error) {
	const banner = "Linux version "
	const longest = 128 // of the banner's part that is wanted
	buf := make([]byte, 0, 256<<10)
	for {
		n, err := io.ReadFull(r, buf[len(buf):cap(buf)])
		buf = buf[:len(buf)+n]
		rest := buf
		for {
			i := bytes.Index(rest, []byte(banner))
			if i < 0 || len(rest)-i < longest && err == nil {
				break
			}
			rest = rest[i+len(banner):]
			if len(rest) > 0 && rest[0] >= '0' && rest[0] <= '9' { // and not the format "Linux version %s"
				return firstWord(rest[:min(len(rest), longest)]), nil
			}
		}
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			return "", nil
		}
		if err != nil {
			return "", fmt.Errorf("the kernel cannot be read: %w", err)
		}
		kept := copy(buf, buf[max(0, len(buf)-longest):])
		buf = buf[:kept]
	}
}

// firstWord returns text up to a space or the end of a C string.
func firstWord(text []byte) string {
	word, _, _ := strings.Cut(string(text), " ")
	word, _, _ = strings.Cut(word, "\x00")
	return strings.TrimSpace(word)
}
