package vmassets

import (
	"bytes"
	"encoding/binary"
	"fmt"
)

// Offsets in the setup header of a bzImage, from Documentation/arch/x86/boot.rst of the Linux source.
const (
	offSetupSects    = 0x1f1
	offHeaderMagic   = 0x202
	offVersion       = 0x206
	offPayloadOffset = 0x248
	offPayloadLength = 0x24c
	headerEnd        = 0x250
	payloadVersion   = 0x0208 // the first boot protocol that tells where the payload is
	sectorSize       = 512
)

// Payload returns the compressed kernel inside a bzImage. Its last four bytes are the uncompressed size.
func Payload(image []byte) ([]byte, error) {
	if len(image) < headerEnd || !bytes.Equal(image[offHeaderMagic:offHeaderMagic+4], []byte("HdrS")) {
		return nil, fmt.Errorf("not a bzImage: it has no setup header")
	}
	le := binary.LittleEndian
	if v := le.Uint16(image[offVersion:]); v < payloadVersion {
		return nil, fmt.Errorf("bzImage of boot protocol %d.%02d: want 2.08 or newer", v>>8, v&0xff)
	}
	sects := uint64(image[offSetupSects])
	if sects == 0 {
		sects = 4
	}
	start := (sects+1)*sectorSize + uint64(le.Uint32(image[offPayloadOffset:]))
	length := uint64(le.Uint32(image[offPayloadLength:]))
	if start+length > uint64(len(image)) {
		return nil, fmt.Errorf("bzImage cut short: its payload ends at byte %d of %d", start+length, len(image))
	}
	if length < minPayload {
		return nil, fmt.Errorf("bzImage with a payload of %d bytes", length)
	}
	return image[start : start+length], nil
}

// minPayload is a magic number and the uncompressed size.
const minPayload = 8

// Uncompress returns the kernel in a bzImage: an ELF file.
func Uncompress(image []byte) ([]byte, error) {
	payload, err := Payload(image)
	if err != nil {
		return nil, err
	}
	stream, size := payload[:len(payload)-4], binary.LittleEndian.Uint32(payload[len(payload)-4:])
	kind, open := formatOf(payload)
	if open == nil {
		return nil, fmt.Errorf("payload is %s, which is not supported: want zstd, lz4, gzip or xz", kind)
	}
	if size > maxKernel {
		return nil, fmt.Errorf("payload says it is %d bytes uncompressed; more than %d is no kernel", size, maxKernel)
	}
	if kind == "gzip" {
		stream = payload // here the size is gzip's own trailer, not an addition
	}
	kernel, err := open(stream, int(size))
	if err != nil {
		return nil, fmt.Errorf("payload (%s): %w", kind, err)
	}
	return kernel, nil
}

// maxKernel bounds what a header can make us allocate.
const maxKernel = 1 << 30
