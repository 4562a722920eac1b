package metrics

import (
	"encoding/json"
	"testing"
)

// benchLine is as long as a line of a VM with one drive and one interface.
func benchLine() []byte {
	return []byte(flush{
		stamp:  1764000000000,
		drives: map[string]Drive{"rootfs": {ReadBytes: 1 << 20, WriteBytes: 1 << 16, ReadCount: 31, WriteCount: 4}},
		nets:   map[string]Network{"eth0": {RxBytes: 150000, TxBytes: 9000, RxPackets: 100, TxPackets: 90}},
	}.text())
}

func benchDevices() Devices {
	return Devices{Drives: []string{"rootfs"}, Networks: []string{"eth0"}}
}

func TestALineCostsNoAllocation(t *testing.T) {
	line := benchLine()
	torn := append(append([]byte(nil), line[:1500]...), line...)
	d := decoder(t, benchDevices())
	for name, feed := range map[string]func(){
		"whole":     func() { d.Feed(line) },
		"in pieces": func() { d.Feed(line[:1024]); d.Feed(line[1024:2048]); d.Feed(line[2048:]) },
		"torn":      func() { d.Feed(torn); d.gaps = d.gaps[:0] },
	} {
		feed() // makes the buffers
		if n := testing.AllocsPerRun(100, feed); n != 0 {
			t.Errorf("%s: %v allocations per line", name, n)
		}
	}
}

func BenchmarkFeed(b *testing.B) {
	line := benchLine()
	d := decoder(b, benchDevices())
	b.SetBytes(int64(len(line)))
	b.ReportAllocs()
	for b.Loop() {
		d.Feed(line)
	}
	if d.unread.Pieces != 0 {
		b.Fatal(d.unread)
	}
}

// BenchmarkEncodingJSON is the floor: the standard library, told of the same two devices and nothing else.
func BenchmarkEncodingJSON(b *testing.B) {
	line := benchLine()
	b.SetBytes(int64(len(line)))
	b.ReportAllocs()
	for b.Loop() {
		var v struct {
			Stamp int64 `json:"utc_timestamp_ms"`
			Block struct {
				ReadBytes  uint64 `json:"read_bytes"`
				WriteBytes uint64 `json:"write_bytes"`
				ReadCount  uint64 `json:"read_count"`
				WriteCount uint64 `json:"write_count"`
			} `json:"block_rootfs"`
			Net struct {
				RxBytes   uint64 `json:"rx_bytes_count"`
				TxBytes   uint64 `json:"tx_bytes_count"`
				RxPackets uint64 `json:"rx_packets_count"`
				TxPackets uint64 `json:"tx_packets_count"`
			} `json:"net_eth0"`
		}
		if err := json.Unmarshal(line, &v); err != nil {
			b.Fatal(err)
		}
	}
}
