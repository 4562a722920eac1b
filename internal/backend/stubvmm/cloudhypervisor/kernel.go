package cloudhypervisor

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"errors"
	"io"
	"os"
)

// checkKernel looks at a kernel as the loader does: an ELF file needs the note of PVH, and everything else has to be a
// bzImage. It has to fit into the memory.
func checkKernel(path string, memory uint64) *fault {
	f, err := os.Open(path)
	if err != nil {
		return causedBy(err, "Cannot open kernel file")
	}
	defer f.Close()
	magic := make([]byte, 4)
	if _, err := f.ReadAt(magic, 0); err == nil && string(magic) == elf.ELFMAG {
		return checkELF(f, memory)
	}
	// The header of a bzImage is found by its magic number, HdrS.
	const at, length = 0x1f1, 0x77
	header := make([]byte, length)
	switch n, err := f.ReadAt(header, at); {
	case err != nil && !errors.Is(err, io.EOF), n < length:
		return notBootable("Unable to read bzImage header")
	case string(header[0x202-at:0x206-at]) != "HdrS":
		return notBootable("Invalid bzImage")
	}
	return nil
}

func notBootable(why string) *fault {
	return says("Cannot load the kernel into memory",
		"Kernel Loader: failed to load bzImage kernel image: Kernel Loader: "+why, "Kernel Loader: "+why)
}

func checkELF(f *os.File, memory uint64) *fault {
	file, err := elf.NewFile(f)
	if err != nil {
		return notBootable("Invalid bzImage") // what is not taken as one is tried as the other
	}
	for _, p := range file.Progs {
		if p.Type == elf.PT_LOAD && p.Paddr+p.Memsz > memory {
			return notBootable("Invalid bzImage")
		}
	}
	for _, p := range file.Progs {
		if p.Type != elf.PT_NOTE {
			continue
		}
		notes := make([]byte, p.Filesz)
		if _, err := p.ReadAt(notes, 0); err == nil && hasPVH(notes) {
			return nil
		}
	}
	return says("Kernel lacks PVH header")
}

// hasPVH looks for the note by which Xen names the entry in 32 bits.
func hasPVH(notes []byte) bool {
	const phys32Entry = 18
	for len(notes) >= 12 {
		name := int(binary.LittleEndian.Uint32(notes))
		desc := int(binary.LittleEndian.Uint32(notes[4:]))
		kind := binary.LittleEndian.Uint32(notes[8:])
		nameEnd := 12 + (name+3)&^3
		end := nameEnd + (desc+3)&^3
		if name < 0 || desc < 0 || nameEnd > len(notes) {
			return false
		}
		if kind == phys32Entry && bytes.Equal(notes[12:12+name], []byte("Xen\x00")) {
			return true
		}
		notes = notes[min(end, len(notes)):]
	}
	return false
}
