package main

import (
	"encoding/binary"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/unkeyed/unkey/go/deploy/metald/internal/guest"
)

// event is a struct input_event as the kernel writes it.
func event(kind, code uint16, value uint32) []byte {
	buf := make([]byte, 16, 24)
	buf = binary.NativeEndian.AppendUint16(buf, kind)
	buf = binary.NativeEndian.AppendUint16(buf, code)
	return binary.NativeEndian.AppendUint32(buf, value)
}

func TestKeysThatEndTheGuest(t *testing.T) {
	const down, up = 1, 0
	ctrlAltDel := [][]byte{event(evKey, keyLeftCtrl, down), event(evKey, keyRightAlt, down), event(evKey, keyDelete, down)}
	tests := []struct {
		name    string
		events  [][]byte
		policy  string
		signals bool
		want    *ending
	}{
		{"power button", [][]byte{event(evKey, keyPowerOff, down)}, guest.PowerHonour, false, new(powerOff())},
		{"power button let go", [][]byte{event(evKey, keyPowerOff, up)}, guest.PowerHonour, false, nil},
		{"power button ignored", [][]byte{event(evKey, keyPowerOff, down)}, guest.PowerIgnore, false, nil},
		{"the same code of another kind", [][]byte{event(2, keyPowerOff, down)}, guest.PowerHonour, false, nil},
		{"ctrl-alt-del", ctrlAltDel, guest.PowerHonour, false, new(restart())},
		{"ctrl-alt-del ignored", ctrlAltDel, guest.PowerIgnore, false, nil},
		{"ctrl-alt-del that comes as a signal too", ctrlAltDel, guest.PowerHonour, true, nil},
		{"power button where ctrl-alt-del comes as a signal", [][]byte{event(evKey, keyPowerOff, down)}, guest.PowerHonour, true, new(powerOff())},
		{"ctrl let go before del", slices.Insert(slices.Clone(ctrlAltDel), 2, event(evKey, keyLeftCtrl, up)), guest.PowerHonour, false, nil},
		{"event cut short", [][]byte{event(evKey, keyPowerOff, down)[:20]}, guest.PowerHonour, false, nil},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			device := filepath.Join(t.TempDir(), "event0")
			if err := os.WriteFile(device, slices.Concat(tt.events...), 0o600); err != nil {
				t.Fatal(err)
			}
			end := make(chan ending, 1)
			readKeys(device, host{policy: tt.policy, end: end, signals: tt.signals})
			select {
			case got := <-end:
				if tt.want == nil || got != *tt.want {
					t.Errorf("guest ends by %+v, want %+v", got, tt.want)
				}
			default:
				if tt.want != nil {
					t.Errorf("guest goes on, want %+v", *tt.want)
				}
			}
		})
	}
}

// The names come from a real inotify descriptor: the layout is the kernel's to decide.
func TestNamesOfNewDevices(t *testing.T) {
	dir := t.TempDir()
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	if _, err := unix.InotifyAddWatch(fd, dir, unix.IN_CREATE); err != nil {
		t.Fatal(err)
	}
	want := []string{"event0", "mice", "event-with-a-much-longer-name"}
	for _, name := range want {
		if err := os.WriteFile(filepath.Join(dir, name), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	buf := make([]byte, 4096)
	n, err := unix.Read(fd, buf)
	if err != nil {
		t.Fatal(err)
	}
	if got := createdNames(buf[:n]); !slices.Equal(got, want) {
		t.Errorf("names %q, want %q", got, want)
	}
	if got := createdNames(buf[:n-1]); !slices.Equal(got, want[:2]) {
		t.Errorf("names of a buffer cut short %q, want %q", got, want[:2])
	}
}
