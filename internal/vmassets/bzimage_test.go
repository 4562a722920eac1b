package vmassets

import (
	"bytes"
	"encoding/binary"
	"strings"
	"testing"
)

func TestUncompressGivesBackTheKernel(t *testing.T) {
	kernel := elfKernel(t, true)
	for name, pack := range map[string]func(testing.TB, []byte) []byte{
		"zstd": zstdPayload, "lz4": lz4Payload, "gzip": gzipPayload, "xz": xzPayload,
	} {
		t.Run(name, func(t *testing.T) {
			payload := pack(t, kernel)
			if got, _ := formatOf(payload); got != name {
				t.Errorf("format %s", got)
			}
			got, err := Uncompress(bzImageOf(payload))
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(got, kernel) {
				t.Error("another kernel came out")
			}
		})
	}
}

// A payload that lost or gained something anywhere must not come out as a kernel.
func TestUncompressRefusesDamage(t *testing.T) {
	kernel := elfKernel(t, false)
	for name, pack := range map[string]func(testing.TB, []byte) []byte{
		"zstd": zstdPayload, "lz4": lz4Payload, "gzip": gzipPayload, "xz": xzPayload,
	} {
		t.Run(name, func(t *testing.T) {
			whole := pack(t, kernel)
			for cut := 8; cut < len(whole)-4; cut += 1 + len(whole)/7 {
				payload := append(bytes.Clone(whole[:cut]), whole[len(whole)-4:]...)
				if _, err := Uncompress(bzImageOf(payload)); err == nil {
					t.Errorf("cut after %d of %d bytes: taken for whole", cut, len(whole))
				}
			}
			for _, size := range []int{len(kernel) - 1, len(kernel) + 1, 0, maxKernel + 1} {
				payload := withSize(bytes.Clone(whole[:len(whole)-4]), size)
				if _, err := Uncompress(bzImageOf(payload)); err == nil {
					t.Errorf("claims %d instead of %d bytes: taken for right", size, len(kernel))
				}
			}
		})
	}
}

func TestUncompressSaysWhatIsWrong(t *testing.T) {
	good := bzImageOf(zstdPayload(t, elfKernel(t, false)))
	change := func(f func(image []byte)) []byte {
		image := bytes.Clone(good)
		f(image)
		return image
	}
	tests := []struct {
		name  string
		image []byte
		want  string
	}{
		{"empty", nil, "not a bzImage"},
		{"an ELF file", elfKernel(t, true), "not a bzImage"},
		{"cut in the header", good[:headerEnd-1], "not a bzImage"},
		{"cut in the payload", good[:len(good)-100], "cut short"},
		{"an old boot protocol", change(func(b []byte) { binary.LittleEndian.PutUint16(b[offVersion:], 0x0207) }), "2.07"},
		{"no payload", change(func(b []byte) { binary.LittleEndian.PutUint32(b[offPayloadLength:], 0) }), "payload of 0 bytes"},
		{"payload past 4 GiB", change(func(b []byte) { binary.LittleEndian.PutUint32(b[offPayloadOffset:], 0xffffffff) }), "cut short"},
		{"garbage for a payload", bzImageOf(bytes.Repeat([]byte("no"), 100)), "unknown format"},
		{"bzip2", bzImageOf(append([]byte("BZh91AY"), make([]byte, 100)...)), "bzip2"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, err := Uncompress(tt.image)
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("error %v, want %q in it", err, tt.want)
			}
		})
	}
}

// The setup code of a very old or odd image has no sector count; it means four.
func TestPayloadWithoutSectorCount(t *testing.T) {
	payload := zstdPayload(t, elfKernel(t, false))
	image := bzImageOf(payload)
	image[offSetupSects] = 0
	got, err := Payload(image)
	if err != nil || !bytes.Equal(got, payload) {
		t.Errorf("payload of %d bytes, error %v; want %d bytes", len(got), err, len(payload))
	}
}

func FuzzUncompress(f *testing.F) {
	kernel := elfKernel(f, true)[:4096]
	for _, pack := range []func(testing.TB, []byte) []byte{zstdPayload, lz4Payload, gzipPayload} {
		f.Add(bzImageOf(pack(f, kernel)))
	}
	f.Fuzz(func(t *testing.T, image []byte) {
		payload, err := Payload(image)
		if err != nil {
			return
		}
		if kind, _ := formatOf(payload); kind == "xz" {
			return // a process for each input is no use here
		}
		size := binary.LittleEndian.Uint32(payload[len(payload)-4:])
		if got, err := Uncompress(image); err == nil && len(got) != int(size) {
			t.Errorf("%d bytes, the image says %d", len(got), size)
		}
	})
}

func TestInspectKernel(t *testing.T) {
	for _, pvh := range []bool{false, true} {
		got, err := inspectKernel(bytes.NewReader(elfKernel(t, pvh)))
		if err != nil || got != pvh {
			t.Errorf("PVH note %t, error %v; want %t", got, err, pvh)
		}
	}
	arm := elfKernel(t, false)
	arm[18] = 0xb7
	for name, content := range map[string][]byte{"text": []byte("#!/bin/sh\n"), "arm64": arm, "empty": nil, "cut": elfKernel(t, true)[:130]} {
		if _, err := inspectKernel(bytes.NewReader(content)); err == nil {
			t.Errorf("%s passes for an x86-64 kernel", name)
		}
	}
}
