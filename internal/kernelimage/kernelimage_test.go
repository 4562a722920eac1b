package kernelimage

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/unkeyed/unkey/go/deploy/metald/internal/backend/backendtest"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/backend/types"
)

// fakeELF is an ELF file for x86-64 with one segment of notes, and text behind it.
func fakeELF(note []byte, text string) []byte {
	const headerSize, progSize = 64, 56
	h := elf.Header64{
		Type: uint16(elf.ET_EXEC), Machine: uint16(elf.EM_X86_64), Version: uint32(elf.EV_CURRENT),
		Phoff: headerSize, Ehsize: headerSize, Phentsize: progSize, Phnum: 1,
	}
	copy(h.Ident[:], elf.ELFMAG)
	h.Ident[elf.EI_CLASS], h.Ident[elf.EI_DATA], h.Ident[elf.EI_VERSION] = byte(elf.ELFCLASS64), byte(elf.ELFDATA2LSB), byte(elf.EV_CURRENT)
	p := elf.Prog64{Type: uint32(elf.PT_NOTE), Off: headerSize + progSize, Filesz: uint64(len(note))}
	var b bytes.Buffer
	for _, part := range []any{h, p, note, []byte(text)} {
		if err := binary.Write(&b, binary.LittleEndian, part); err != nil {
			panic(err)
		}
	}
	return b.Bytes()
}

func note(owner string, kind uint32, desc string) []byte {
	b := binary.LittleEndian.AppendUint32(nil, uint32(len(owner)))
	b = binary.LittleEndian.AppendUint32(b, uint32(len(desc)))
	b = binary.LittleEndian.AppendUint32(b, kind)
	b = append(b, owner...)
	b = append(b, make([]byte, -len(owner)&3)...)
	b = append(b, desc...)
	return append(b, make([]byte, -len(desc)&3)...)
}

func TestInspectKernel(t *testing.T) {
	gnu, pvh := note("GNU\x00", 3, "build id"), note("Xen\x00", pvhNote, "entry123")
	long := note("GNU\x00", 3, "x")
	binary.LittleEndian.PutUint32(long[4:], 0xffffffff)
	const banner = "Linux version %s (%s)\n\x00Linux version 7.1.2 (gokrazy@docker) (gcc 12) #1 SMP"
	far := strings.Repeat("\x00", 256<<10-200) + banner // across the edge of what is read at once
	for name, c := range map[string]struct {
		file []byte
		want kernel
		err  string
	}{
		"bzImage":          {fakeBzImage("6.1.0-56-cloud-amd64 (debian@x) #1"), kernel{formatBzImage, "6.1.0-56-cloud-amd64"}, ""},
		"PVH":              {fakeELF(append(gnu, pvh...), ""), kernel{format: formatPVH}, ""},
		"no PVH":           {fakeELF(gnu, banner), kernel{formatELF, "7.1.2"}, ""},
		"banner far away":  {fakeELF(gnu, far), kernel{formatELF, "7.1.2"}, ""},
		"note of somebody": {fakeELF(note("abc\x00", pvhNote, "entry123"), banner), kernel{formatELF, "7.1.2"}, ""},
		"endless note":     {fakeELF(long, banner), kernel{formatELF, "7.1.2"}, ""},
		"no Linux":         {fakeELF(gnu, ""), kernel{}, "without Linux"},
		"only a format":    {fakeELF(gnu, "Linux version %s"), kernel{}, "without Linux"},
		"cut ELF":          {fakeELF(gnu, "")[:70], kernel{}, "broken ELF"},
		"ELF magic only":   {[]byte("\x7fELF"), kernel{}, "broken ELF"},
		"cut header":       {fakeBzImage("x")[:0x210], kernel{}, "not a kernel"},
		"script":           {[]byte("#!/bin/sh\n"), kernel{}, "not a kernel"},
		"empty":            {nil, kernel{}, "not a kernel"},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := inspectKernel(bytes.NewReader(c.file), int64(len(c.file)))
			if got != c.want || (err == nil) != (c.err == "") || err != nil && !strings.Contains(err.Error(), c.err) {
				t.Errorf("%+v, %v", got, err)
			}
		})
	}
}

func FuzzInspectKernel(f *testing.F) {
	f.Add(fakeBzImage("7.1.2"))
	f.Add(fakeELF(note("Xen\x00", pvhNote, "entry123"), ""))
	f.Add(fakeELF(note("GNU\x00", 3, "x"), "Linux version 7.1.2 (a) "))
	f.Fuzz(func(t *testing.T, file []byte) {
		image, err := inspectKernel(bytes.NewReader(file), int64(len(file)))
		if (err == nil) == (image.format == 0) {
			t.Errorf("%+v, %v", image, err)
		}
	})
}

func TestInspectionIsRemembered(t *testing.T) {
	path := filepath.Join(t.TempDir(), "vmlinuz")
	backendtest.Write(t, path, fakeBzImage("7.1.2"))
	var k Opener
	file, err := k.Open(path)
	must(t, err)
	file.Close()
	if len(k.seen) != 1 {
		t.Fatalf("remembered: %v", k.seen)
	}
	// Another content, under the same name: it is looked at again.
	must(t, os.Remove(path))
	backendtest.Write(t, path, []byte("something else"))
	_, err = k.Open(path)
	wantKind(t, err, types.KindInvalid, Field, "not a kernel")
	for i := range 2 * maxInspected {
		k.remember(fileVersion{inode: uint64(i)}, kernel{})
	}
	if len(k.seen) > maxInspected {
		t.Errorf("%d are remembered", len(k.seen))
	}
}

func TestTheTwinIsNoLink(t *testing.T) {
	dir := t.TempDir()
	kernel := filepath.Join(dir, "vmlinux")
	backendtest.Write(t, kernel, fakeELF(note("GNU\x00", 3, "x"), "Linux version 7.1.2 (a)"+strings.Repeat(" ", 128)))
	backendtest.Write(t, filepath.Join(dir, "elsewhere"), fakeBzImage("7.1.2"))
	must(t, os.Symlink("elsewhere", kernel+SiblingSuffix))
	_, err := new(Opener).Open(kernel)
	wantKind(t, err, types.KindInvalid, Field, SiblingSuffix)
	must(t, os.Rename(filepath.Join(dir, "elsewhere"), kernel+SiblingSuffix))
	file, err := new(Opener).Open(kernel)
	must(t, err)
	defer file.Close()
	if file.Name() != kernel+SiblingSuffix {
		t.Errorf("opened %s", file.Name())
	}
}

func fakeBzImage(version string) []byte {
	b := make([]byte, 0x400)
	b[0x1fe], b[0x1ff] = 0x55, 0xaa
	copy(b[0x202:], "HdrS")
	binary.LittleEndian.PutUint16(b[0x20e:], 0x100)
	copy(b[0x300:], version+"\x00")
	return b
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func wantKind(t testing.TB, err error, kind types.Kind, field, says string) {
	t.Helper()
	var e *types.Error
	if !errors.As(err, &e) || e.Kind != kind || e.Field != field || !strings.Contains(err.Error(), says) {
		t.Fatalf("error %v, want one of kind %d about %s that says %q", err, kind, field, says)
	}
}
