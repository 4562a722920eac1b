package vmassets

import (
	"bytes"
	"debug/elf"
	"fmt"
	"io"
)

// notePhysEntry is the type of the Xen note with the PVH entry point (XEN_ELFNOTE_PHYS32_ENTRY).
const notePhysEntry = 0x12

// inspectKernel makes sure that kernel is an x86-64 kernel as ELF, and says whether it has the PVH note, by which Cloud
// Hypervisor and QEMU boot an ELF.
func inspectKernel(kernel io.ReaderAt) (pvh bool, err error) {
	f, err := elf.NewFile(kernel)
	if err != nil {
		return false, fmt.Errorf("not an ELF file: %w", err)
	}
	defer f.Close()
	if f.Class != elf.ELFCLASS64 || f.Machine != elf.EM_X86_64 || f.Type != elf.ET_EXEC {
		return false, fmt.Errorf("not an x86-64 kernel: %v %v %v", f.Class, f.Machine, f.Type)
	}
	for _, p := range f.Progs {
		if p.Type != elf.PT_NOTE || p.Filesz > 1<<20 {
			continue
		}
		notes := make([]byte, p.Filesz)
		if _, err := io.ReadFull(p.Open(), notes); err != nil {
			return false, fmt.Errorf("read the ELF notes: %w", err)
		}
		if hasNote(f.ByteOrder.Uint32, notes, "Xen\x00", notePhysEntry) {
			return true, nil
		}
	}
	return false, nil
}

// hasNote looks through a note segment: name size, content size and type, then both, each padded to 4 bytes.
func hasNote(u32 func([]byte) uint32, notes []byte, owner string, kind uint32) bool {
	const header = 12
	for len(notes) >= header {
		nameEnd := header + uint64(u32(notes))
		descStart := (nameEnd + 3) &^ 3
		next := (descStart + uint64(u32(notes[4:])) + 3) &^ 3
		if nameEnd > uint64(len(notes)) {
			return false
		}
		if u32(notes[8:]) == kind && bytes.Equal(notes[header:nameEnd], []byte(owner)) {
			return true
		}
		if next >= uint64(len(notes)) {
			return false
		}
		notes = notes[next:]
	}
	return false
}
