package metrics

import (
	"fmt"
	"strings"

	"pgregory.net/rapid"
)

// flush is what one line of the tests says. The rest of a real line, some 260 numbers, is added by text.
type flush struct {
	stamp  int64
	drives map[string]Drive
	nets   map[string]Network
	missed uint64
	faults uint64 // seccomp.num_faults, a gauge
	pipes  uint64 // signals.sigpipe, a delta among gauges
}

// text is the flush as Firecracker writes it: the sums over all devices, objects within objects, and groups that
// nobody asks for, too.
func (f flush) text() string {
	var b strings.Builder
	fmt.Fprintf(&b, `{"utc_timestamp_ms":%d,"api_server":{"process_startup_time_us":8011,"process_startup_time_cpu_us":7205}`, f.stamp)
	b.WriteString(`,"balloon":{"activate_fails":0,"inflate_count":0,"stats_updates_count":0,"deflate_count":0}`)
	var sum Drive
	for id, d := range f.drives {
		fmt.Fprintf(&b, `,"block_%s":%s`, id, driveText(d))
		sum.ReadBytes, sum.WriteBytes = sum.ReadBytes+d.ReadBytes, sum.WriteBytes+d.WriteBytes
	}
	fmt.Fprintf(&b, `,"block":%s`, driveText(sum))
	fmt.Fprintf(&b, `,"latencies_us":{"full_create_snapshot":0,"load_snapshot":0,"pause_vm":17,"resume_vm":11}`)
	fmt.Fprintf(&b, `,"logger":{"missed_metrics_count":%d,"metrics_fails":0,"missed_log_count":0,"rate_limited_log_count":0}`, f.missed)
	var total Network
	for id, n := range f.nets {
		fmt.Fprintf(&b, `,"net_%s":%s`, id, netText(n))
		total.RxBytes, total.TxBytes = total.RxBytes+n.RxBytes, total.TxBytes+n.TxBytes
	}
	fmt.Fprintf(&b, `,"net":%s`, netText(total))
	fmt.Fprintf(&b, `,"seccomp":{"num_faults":%d},"signals":{"sigbus":0,"sigsegv":0,"sigpipe":%d}`, f.faults, f.pipes)
	b.WriteString(`,"vcpu":{"exit_io_in":31,"exit_io_out":9,"failures":0,"exit_io_in_agg":{"min_us":1,"max_us":9,"sum_us":44}}`)
	for i := range 40 { // up to the size of a real one
		fmt.Fprintf(&b, `,"filler_%d":{"event_fails":0,"queue_event_count":0,"rate_limiter_event_count":0}`, i)
	}
	b.WriteString("}\n")
	return b.String()
}

func driveText(d Drive) string {
	return fmt.Sprintf(`{"activate_fails":0,"cfg_fails":0,"flush_count":%d,"read_bytes":%d,"write_bytes":%d,"read_count":%d,"write_count":%d,`+
		`"rate_limiter_throttled_events":%d,"io_engine_throttled_events":%d,"read_agg":{"min_us":3,"max_us":12,"sum_us":15}}`,
		d.FlushCount, d.ReadBytes, d.WriteBytes, d.ReadCount, d.WriteCount, d.RateLimited, d.EngineThrottled)
}

func netText(n Network) string {
	return fmt.Sprintf(`{"activate_fails":0,"rx_bytes_count":%d,"rx_packets_count":%d,"rx_fails":%d,"rx_count":0,"tap_write_agg":{"min_us":0,"max_us":0,"sum_us":0},`+
		`"tx_bytes_count":%d,"tx_packets_count":%d,"tx_fails":%d,"rx_rate_limiter_throttled":%d,"tx_rate_limiter_throttled":%d}`,
		n.RxBytes, n.RxPackets, n.RxFails, n.TxBytes, n.TxPackets, n.TxFails, n.RxRateLimited, n.TxRateLimited)
}

// drive is the flush of a VM with the one drive "a".
func drive(stamp int64, d Drive) flush { return flush{stamp: stamp, drives: map[string]Drive{"a": d}} }

func decoder(t rapid.TB, devices Devices) *Decoder {
	t.Helper()
	d, err := New(devices)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// onlyA is a VM with the one drive "a".
func onlyA() Devices { return Devices{Drives: []string{"a"}} }
