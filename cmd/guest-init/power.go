package main

import (
	"encoding/binary"
	"io"
	"os"
	"path/filepath"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/unkeyed/unkey/go/deploy/metald/internal/guest"
)

const inputDir = "/dev/input"

// hasTerminals says whether the kernel has virtual terminals, which send process 1 a signal for ctrl-alt-del.
func hasTerminals() bool {
	_, err := os.Stat("/sys/class/tty/tty0")
	return err == nil
}

// watchPower reads every input device, those that appear later too, for the power button and ctrl-alt-del.
func watchPower(h host) {
	// The directory appears with the first device; it is made here so that there is something to watch.
	_ = os.MkdirAll(inputDir, 0o755)
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC)
	if err == nil {
		_, err = unix.InotifyAddWatch(fd, inputDir, unix.IN_CREATE)
	}
	if err != nil {
		say(guest.Prefix + "watch input devices: " + errnoName(err))
	}
	present, _ := filepath.Glob(inputDir + "/event*")
	for _, path := range present {
		go readKeys(path, h)
	}
	for buf := make([]byte, 4096); err == nil; {
		var n int
		if n, err = unix.Read(fd, buf); err != nil {
			break
		}
		for _, name := range createdNames(buf[:n]) {
			if strings.HasPrefix(name, "event") {
				go readKeys(filepath.Join(inputDir, name), h)
			}
		}
	}
}

// createdNames are the names in a buffer of inotify events (inotify(7)).
func createdNames(buf []byte) (names []string) {
	const header = unix.SizeofInotifyEvent
	for len(buf) >= header {
		n := int(binary.NativeEndian.Uint32(buf[12:]))
		if header+n > len(buf) {
			break
		}
		names = append(names, unix.ByteSliceToString(buf[header:header+n]))
		buf = buf[header+n:]
	}
	return names
}

// readKeys reads one device's events (struct input_event of linux/input.h) until the device is gone.
func readKeys(path string, h host) {
	f, err := os.Open(path)
	if err != nil {
		return
	}
	defer f.Close()
	const timeSize = int(unsafe.Sizeof(unix.Timeval{}))
	var held keys
	for event := make([]byte, timeSize+8); ; {
		if _, err := io.ReadFull(f, event); err != nil {
			return
		}
		kind := binary.NativeEndian.Uint16(event[timeSize:])
		code := binary.NativeEndian.Uint16(event[timeSize+2:])
		value := binary.NativeEndian.Uint32(event[timeSize+4:])
		if kind == evKey {
			held.press(code, value != 0, h)
		}
	}
}
