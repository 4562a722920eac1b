package metrics

// kind says what a number of a line means.
type kind uint8

const (
	delta kind = iota // what happened since the line before; added up
	gauge             // stands for itself and is repeated on every line; replaced
)

// field is one number that is wanted of an object in a line.
type field struct {
	name string
	kind kind
}

// Keys of the objects of single devices. "block" and "net" alone are the sums of the same deltas over all devices, and
// are not read: reading both would count everything twice.
const (
	drivePrefix   = "block_"
	networkPrefix = "net_"
)

// stampKey is the first key of every line: the wall clock in milliseconds when it was written.
const stampKey = "utc_timestamp_ms"

// marker begins a line. Inside of a JSON object it can stand only as the begin of another object, so it finds the
// place where a torn line ends and the next one begins.
const marker = `{"` + stampKey + `"`

// driveFields are wanted of every drive, in the order of Drive.
func driveFields() []field {
	return deltas("read_bytes", "write_bytes", "read_count", "write_count", "flush_count",
		"rate_limiter_throttled_events", "io_engine_throttled_events")
}

// networkFields are wanted of every interface, in the order of Network.
func networkFields() []field {
	return deltas("rx_bytes_count", "tx_bytes_count", "rx_packets_count", "tx_packets_count", "rx_fails", "tx_fails",
		"rx_rate_limiter_throttled", "tx_rate_limiter_throttled")
}

// Objects about the whole VMM. Their fields differ between releases, so none of them has to be there.
const (
	loggerKey = "logger"
	missedKey = "missed_metrics_count"
	failsKey  = "metrics_fails"
)

func vmmFields() map[string][]field {
	return map[string][]field{
		loggerKey: deltas(missedKey, failsKey, "missed_log_count", "rate_limited_log_count"),
		"vsock":   deltas("rx_bytes_count", "tx_bytes_count", "conns_added", "conns_killed", "conns_removed"),
		"vcpu":    deltas("failures"),
		"balloon": deltas("inflate_count", "deflate_count"),
		"seccomp": gauges("num_faults"),
		"vmm":     gauges("panic_count"),
		"signals": append(gauges("sigbus", "sigsegv", "sigxfsz", "sigxcpu", "sighup", "sigill"), deltas("sigpipe")...),
		"api_server": gauges("process_startup_time_us",
			"process_startup_time_cpu_us"),
		"latencies_us": gauges("full_create_snapshot", "load_snapshot", "pause_vm", "resume_vm"),
	}
}

func deltas(names ...string) []field { return fields(delta, names) }

func gauges(names ...string) []field { return fields(gauge, names) }

func fields(k kind, names []string) []field {
	list := make([]field, 0, len(names)+1)
	for _, name := range names {
		list = append(list, field{name, k})
	}
	return list
}
