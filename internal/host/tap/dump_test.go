package tap

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"runtime"
	"testing"

	"golang.org/x/sys/unix"
)

// inNamespace runs f on a thread in a network namespace of its own, which ends with the thread.
func inNamespace(tb testing.TB, f func()) {
	tb.Helper()
	if os.Geteuid() != 0 {
		tb.Skip("network namespaces need root")
	}
	if _, err := exec.LookPath("ip"); err != nil {
		tb.Skip("there is no ip command; `make packages` installs it")
	}
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // and never unlocks it, so that the thread ends with this goroutine
		defer close(done)
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			done <- err
			return
		}
		f()
	}()
	if err := <-done; err != nil {
		tb.Skipf("there can be no network namespace here: %v", err)
	}
}

// makeTap makes a tap that is up, and returns its index.
func makeTap(tb testing.TB, name string) int {
	tb.Helper()
	for _, args := range [][]string{{"tuntap", "add", name, "mode", "tap"}, {"link", "set", name, "up"}} {
		if out, err := exec.Command("ip", args...).CombinedOutput(); err != nil {
			tb.Errorf("ip %v: %v: %s", args, err, out)
			return 0
		}
	}
	return indexOf(tb, name)
}

func indexOf(tb testing.TB, name string) int {
	tb.Helper()
	i, err := net.InterfaceByName(name)
	if err != nil {
		tb.Error(err)
		return 0
	}
	return i.Index
}

func dump(tb testing.TB, d *Dumper) map[int]Counters {
	tb.Helper()
	all := map[int]Counters{}
	if err := d.Dump(func(i int, c Counters) { all[i] = c }); err != nil {
		tb.Error(err)
	}
	return all
}

func dumper(tb testing.TB) *Dumper {
	tb.Helper()
	d, err := NewDumper()
	if err != nil {
		tb.Error(err)
		runtime.Goexit()
	}
	return d
}

func TestDumpCountsAsTheGuestDoes(t *testing.T) {
	inNamespace(t, func() {
		index := makeTap(t, "m0")
		guest, err := attachTap("m0", unix.IFF_TAP|unix.IFF_NO_PI|unix.IFF_VNET_HDR) // /sys shows another namespace's
		if err != nil {
			t.Error(err)
			return
		}
		defer guest.Close()
		d := dumper(t)
		defer d.Close()
		before := dump(t, d)[index]
		const frames, size = 7, 100
		frame := make([]byte, 10+size) // behind the header of virtio
		copy(frame[10:], []byte{2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 0x88, 0xb5})
		for range frames {
			if _, err := guest.Write(frame); err != nil {
				t.Error(err)
				return
			}
		}
		got := dump(t, d)[index]
		if got.SentPackets-before.SentPackets != frames || got.SentBytes-before.SentBytes < frames*(size-14) {
			t.Errorf("the guest sent %d frames of %d bytes, and the dump went from %+v to %+v", frames, size, before, got)
		}
	})
}

func TestDumpHasEveryDeviceAndAgreesWithSys(t *testing.T) {
	const taps = 300 // more than one datagram holds
	inNamespace(t, func() {
		index := map[string]int{}
		for i := range taps {
			name := fmt.Sprintf("m%d", i)
			index[name] = makeTap(t, name)
		}
		d := dumper(t)
		defer d.Close()
		all := dump(t, d)
		if len(all) != taps+1 { // and lo
			t.Errorf("%d devices are in the dump of %d", len(all), taps+1)
		}
		for name, i := range index {
			if _, ok := all[i]; !ok {
				t.Errorf("%s is not in the dump", name)
			}
		}
		if n := testing.AllocsPerRun(10, func() { _ = d.Dump(func(int, Counters) {}) }); n != 0 {
			t.Errorf("a dump allocates %v times", n)
		}
	})
}

func TestDumpLeavesOutWhatWasRemoved(t *testing.T) {
	inNamespace(t, func() {
		index := makeTap(t, "m0")
		d := dumper(t)
		defer d.Close()
		if _, ok := dump(t, d)[index]; !ok {
			t.Error("the tap is not in the dump")
		}
		if out, err := exec.Command("ip", "link", "del", "m0").CombinedOutput(); err != nil {
			t.Errorf("%v: %s", err, out)
		}
		if c, ok := dump(t, d)[index]; ok {
			t.Errorf("a tap that was removed has %+v", c)
		}
	})
}

func FuzzMessages(f *testing.F) {
	f.Add(make([]byte, 40))
	f.Fuzz(func(_ *testing.T, b []byte) {
		d := Dumper{}
		interrupted := false
		_, _ = d.messages(b, &interrupted, func(int, Counters) {})
	})
}

func BenchmarkDump(b *testing.B) {
	inNamespace(b, func() {
		for i := range 100 {
			makeTap(b, fmt.Sprintf("m%d", i))
		}
		d := dumper(b)
		defer d.Close()
		b.ReportAllocs()
		for b.Loop() {
			if err := d.Dump(func(int, Counters) {}); err != nil {
				b.Error(err)
				return
			}
		}
	})
}

func TestIndexIsThatOfTheDump(t *testing.T) {
	inNamespace(t, func() {
		want := makeTap(t, "m0")
		d := dumper(t)
		defer d.Close()
		if got, err := d.Index("m0"); err != nil || got != want {
			t.Errorf("%d, %v, want %d", got, err, want)
		}
		if _, err := d.Index("m1"); !errors.Is(err, ErrAbsent) {
			t.Errorf("of a device that is not there: %v", err)
		}
		if _, err := d.Index("a-name-that-is-too-long"); !errors.Is(err, ErrName) {
			t.Errorf("of a name that is none: %v", err)
		}
	})
}
