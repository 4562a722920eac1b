package stubvmm

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
)

// Kernel is the smallest kernel that Firecracker, and so its stand-in, takes: an ELF file that the processor would halt
// in. Only the stand-in's guest says anything.
func Kernel() []byte {
	const entry = 1 << 20
	code := []byte{0xfa, 0xf4, 0xeb, 0xfd} // cli; hlt; jmp to the hlt
	var header elf.Header64
	var segment elf.Prog64
	size := uint64(binary.Size(header) + binary.Size(segment))
	copy(header.Ident[:], elf.ELFMAG)
	header.Ident[elf.EI_CLASS] = byte(elf.ELFCLASS64)
	header.Ident[elf.EI_DATA] = byte(elf.ELFDATA2LSB)
	header.Ident[elf.EI_VERSION] = byte(elf.EV_CURRENT)
	header.Type, header.Machine, header.Version = uint16(elf.ET_EXEC), uint16(elf.EM_X86_64), uint32(elf.EV_CURRENT)
	header.Entry, header.Phoff = entry, uint64(binary.Size(header))
	header.Ehsize, header.Phentsize, header.Phnum = uint16(binary.Size(header)), uint16(binary.Size(segment)), 1
	segment = elf.Prog64{
		Type: uint32(elf.PT_LOAD), Flags: uint32(elf.PF_R | elf.PF_X), Off: size, Vaddr: entry, Paddr: entry,
		Filesz: uint64(len(code)), Memsz: uint64(len(code)), Align: 1,
	}
	var b bytes.Buffer
	for _, part := range []any{header, segment, code} {
		if err := binary.Write(&b, binary.LittleEndian, part); err != nil {
			panic(err) // a buffer takes everything
		}
	}
	return b.Bytes()
}
