package firecracker

import (
	"encoding/binary"

	"golang.org/x/sys/unix"
)

// lowestEntry is where a kernel may begin at the lowest: above the first MiB.
const lowestEntry = 1 << 20

// checkKernel looks at a kernel as the crate linux-loader does (loader/elf/mod.rs). It returns "" for one that it takes.
func checkKernel(fd int) string {
	header := make([]byte, 64)
	if n, err := unix.Pread(fd, header, 0); err != nil || n < len(header) {
		return "Unable to read elf header"
	}
	u64 := func(at int) uint64 { return binary.LittleEndian.Uint64(header[at:]) }
	u16 := func(at int) uint16 { return binary.LittleEndian.Uint16(header[at:]) }
	const dataEncoding, entry, phoff, phentsize, phnum = 5, 24, 32, 54, 56
	switch {
	case string(header[:4]) != "\x7fELF":
		return "Invalid Elf magic number"
	case header[dataEncoding] == 2:
		return "Trying to load big-endian binary on little-endian machine"
	case u16(phentsize) != 56:
		return "Invalid program header size"
	case u64(phoff) < 64:
		return "Invalid program header offset"
	case u64(entry) < lowestEntry:
		return "Invalid entry address"
	}
	table := make([]byte, int(u16(phnum))*int(u16(phentsize)))
	if n, err := unix.Pread(fd, table, int64(u64(phoff))); err != nil || n < len(table) {
		return "Unable to read program header"
	}
	return ""
}
