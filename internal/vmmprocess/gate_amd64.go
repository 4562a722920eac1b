package vmmprocess

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"unsafe"
)

// startGateCode is where the machine code of the start gate begins in metald's own, by gate_amd64.s.
func startGateCode() *byte

// Where the code ends, and how far that is at most.
const (
	gateCodeEnd = "gate endno gate\n"
	gateCodeMax = 2 << 10
)

// gateAddress is where the gate's only segment is loaded.
const gateAddress = 0x400000

// gateProgram returns the start gate as an executable, of one segment; nil where its code is not found.
func gateProgram() []byte {
	code := unsafe.Slice(startGateCode(), gateCodeMax)
	end := bytes.Index(code, []byte(gateCodeEnd))
	if end < 0 {
		return nil
	}
	head := elf.Header64{
		Ident: [elf.EI_NIDENT]byte{0x7f, 'E', 'L', 'F', byte(elf.ELFCLASS64), byte(elf.ELFDATA2LSB), byte(elf.EV_CURRENT)},
		Type:  uint16(elf.ET_EXEC), Machine: uint16(elf.EM_X86_64), Version: uint32(elf.EV_CURRENT),
		Phnum: 2,
	}
	segments := [2]elf.Prog64{
		{Type: uint32(elf.PT_LOAD), Flags: uint32(elf.PF_R | elf.PF_X), Vaddr: gateAddress, Align: 4096},
		{Type: uint32(elf.PT_GNU_STACK), Flags: uint32(elf.PF_R | elf.PF_W), Align: 16},
	}
	head.Ehsize, head.Phentsize = uint16(binary.Size(head)), uint16(binary.Size(segments[0]))
	head.Phoff = uint64(head.Ehsize)
	begin := int(head.Ehsize) + binary.Size(segments)
	head.Entry = gateAddress + uint64(begin)
	segments[0].Filesz = uint64(begin + end)
	segments[0].Memsz = segments[0].Filesz
	var out bytes.Buffer
	for _, part := range []any{head, segments, code[:end]} {
		_ = binary.Write(&out, binary.LittleEndian, part) // a buffer takes what has a fixed size
	}
	return out.Bytes()
}
