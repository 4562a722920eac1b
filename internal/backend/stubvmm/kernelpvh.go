package stubvmm

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
)

// KernelPVH is the smallest kernel that Cloud Hypervisor, and so its stand-in, takes: an ELF file with the note of PVH
// (XEN_ELFNOTE_PHYS32_ENTRY), that the processor would halt in. Only the stand-in's guest says anything.
func KernelPVH() []byte {
	const entry = 1 << 20
	code := []byte{0xfa, 0xf4, 0xeb, 0xfd} // cli; hlt; jmp to the hlt
	note := pvhNote(entry)
	var header elf.Header64
	var load elf.Prog64
	at := uint64(binary.Size(header) + 2*binary.Size(load))
	copy(header.Ident[:], elf.ELFMAG)
	header.Ident[elf.EI_CLASS] = byte(elf.ELFCLASS64)
	header.Ident[elf.EI_DATA] = byte(elf.ELFDATA2LSB)
	header.Ident[elf.EI_VERSION] = byte(elf.EV_CURRENT)
	header.Type, header.Machine, header.Version = uint16(elf.ET_EXEC), uint16(elf.EM_X86_64), uint32(elf.EV_CURRENT)
	header.Entry, header.Phoff = entry, uint64(binary.Size(header))
	header.Ehsize, header.Phentsize, header.Phnum = uint16(binary.Size(header)), uint16(binary.Size(load)), 2
	load = elf.Prog64{
		Type: uint32(elf.PT_LOAD), Flags: uint32(elf.PF_R | elf.PF_X), Off: at, Vaddr: entry, Paddr: entry,
		Filesz: uint64(len(code)), Memsz: uint64(len(code)), Align: 1,
	}
	notes := elf.Prog64{
		Type: uint32(elf.PT_NOTE), Flags: uint32(elf.PF_R), Off: at + uint64(len(code)),
		Filesz: uint64(len(note)), Memsz: uint64(len(note)), Align: 4,
	}
	return packed(header, load, notes, code, note)
}

func pvhNote(entry uint64) []byte {
	const phys32Entry = 18
	return packed(uint32(4), uint32(8), uint32(phys32Entry), []byte("Xen\x00"), entry)
}

func packed(parts ...any) []byte {
	var b bytes.Buffer
	for _, part := range parts {
		if err := binary.Write(&b, binary.LittleEndian, part); err != nil {
			panic(err) // a buffer takes everything
		}
	}
	return b.Bytes()
}
